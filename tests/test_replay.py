"""Stored runs as arguments of a schedule, and schedules put to stored runs."""

from __future__ import annotations

import dataclasses
import io
import itertools

import pytest
from click.testing import CliRunner
from rich.console import Console

import cli
from stability_probe.config import RunConfig
from stability_probe.errors import UsageError
from stability_probe.records import RunResult
from stability_probe.replay import explain, replay_policy, with_stored_sequence
from stability_probe.run import run
from stability_probe.run_summary import decisions_table
from stability_probe.store import Store
from tests.factories import make_epoch

FIXED = RunConfig(
    model="tests.tiny:net",
    data="tests.tiny:blobs",
    device="cpu",
    epochs=8,
    window_epochs=2,
    max_batch_size=48,
    channels_last="off",
    lr_rule="linear",
)
DEBA = dataclasses.replace(
    FIXED, scheduler="deba", scheduler_args={"cooldown": 2, "min_calm_signals": 1}
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def deba(store: Store) -> RunResult:
    result = run(DEBA, store)
    assert len(set(result.batch_sizes)) > 2
    return result


@pytest.fixture(scope="module")
def fixed(store: Store) -> RunResult:
    return run(FIXED, store)


def test_explain_tells_every_decision_as_it_was_recorded(deba: RunResult) -> None:
    told = explain(deba)
    assert [d.epoch for d in told] == list(range(1, 9))
    for decision, epoch, following in zip(told, deba.epochs, deba.epochs[1:], strict=False):
        assert decision.next_batch_size == following.batch_size
        assert (decision.lr, decision.next_lr) == (epoch.lr, following.lr)
        assert decision.cooldown_left == epoch.cooldown_left
    judged = [d for d in told if "calm" in d.reason]
    assert judged
    for decision in judged:
        assert len(decision.evidence) == 3
        assert all(e.value is not None and e.threshold is not None for e in decision.evidence)


def test_a_runs_own_policy_replayed_decides_the_same(deba: RunResult) -> None:
    """The closed loop is recovered where the records are those of the policy itself."""
    assert replay_policy(deba, "deba", dict(DEBA.scheduler_args)) == explain(deba)


def test_another_policy_follows_its_own_batch(fixed: RunResult) -> None:
    told = replay_policy(fixed, "timed", {"cooldown": 2})
    assert [d.batch_size for d in told] == [16, 16, 24, 24, 40, 40, 48, 48]
    assert [d.lr / told[0].lr for d in told] == [1.0, 1.0, 1.5, 1.5, 2.5, 2.5, 3.0, 3.0]
    assert {e.batch_size for e in fixed.epochs} == {16}


def test_a_longer_cooldown_never_makes_more_changes(deba: RunResult) -> None:
    changes = []
    for cooldown in range(8):
        told = replay_policy(deba, "deba", {"cooldown": cooldown, "min_calm_signals": 1})
        epochs = [d.epoch for d in told if d.action != "hold"]
        assert all(b - a >= cooldown for a, b in itertools.pairwise(epochs))
        changes.append(len(epochs))
    assert changes[0] > changes[-1]


def test_a_sequence_of_a_stored_run_on_the_records_of_another(
    store: Store, fixed: RunResult, deba: RunResult
) -> None:
    told = replay_policy(fixed, "replay", {"run": deba.run_id}, store)
    assert [d.batch_size for d in told] == list(deba.batch_sizes)
    assert told == replay_policy(fixed, "replay", {"batch_sizes": list(deba.batch_sizes)})


def test_a_policy_that_needs_what_was_not_measured(fixed: RunResult) -> None:
    with pytest.raises(UsageError, match="needs the noise scale of epoch 1"):
        replay_policy(fixed, "norm_test", {"every": 1})
    # The end of the window is measured in every run, so a policy that asks for no more works.
    told = replay_policy(fixed, "norm_test", {"every": FIXED.epochs + 1})
    assert {d.epoch for d in told if d.action == "increase"} == {FIXED.window_epochs}


def test_a_run_without_epochs(fixed: RunResult) -> None:
    with pytest.raises(UsageError, match="no finished epoch"):
        replay_policy(dataclasses.replace(fixed, epochs=()), "timed", {})


def test_a_sequence_is_taken_from_a_stored_run(store: Store, deba: RunResult) -> None:
    asked = dataclasses.replace(
        FIXED, scheduler="replay", seed=1, scheduler_args={"run": deba.run_id}
    )
    config = with_stored_sequence(asked, store)
    assert config.scheduler_args == {"batch_sizes": list(deba.batch_sizes)}
    assert run(asked, store).batch_sizes == deba.batch_sizes


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"run": "nothing"}, "no run 'nothing'"),
        ({"run": "x", "batch_sizes": [16]}, "not both"),
    ],
)
def test_a_sequence_that_cannot_be_had(store: Store, args: dict[str, object], words: str) -> None:
    config = dataclasses.replace(FIXED, scheduler="random", scheduler_args=args)
    with pytest.raises(UsageError, match=words):
        with_stored_sequence(config, store)


def test_other_schedules_keep_an_argument_named_run(store: Store) -> None:
    config = dataclasses.replace(FIXED, scheduler="mine:rule", scheduler_args={"run": "x"})
    assert with_stored_sequence(config, store) == config


def test_the_commands(store: Store, deba: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    told = CliRunner().invoke(cli.probe, ["explain", deba.run_id, "--runs", str(store.root)])
    assert told.exit_code == 0, told.output
    lines = told.stdout.splitlines()
    assert len(lines) == 2 + 8 + 1
    grown = [line for line in lines if "increase" in line and "→" in line]
    assert len(grown) == sum(e.action == "increase" for e in deba.epochs)
    told = CliRunner().invoke(
        cli.probe,
        ["replay-policy", deba.run_id, "--runs", str(store.root), "--scheduler", "timed"],
    )
    assert told.exit_code == 0, told.output
    assert "signals are those of its own batches" in told.stdout.replace("\n", " ")


def test_markup_in_a_reason_is_shown_as_it_is(deba: RunResult) -> None:
    epoch = make_epoch(reason="[red]x[/red]")
    told = decisions_table("t", explain(dataclasses.replace(deba, epochs=(epoch,))))
    screen = io.StringIO()
    Console(file=screen, width=80).print(told)
    assert "[red]x[/red]" in screen.getvalue()

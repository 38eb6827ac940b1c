"""The fitted predictor as plain numbers: what it stores, when it is used, what it never imports."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from predictor import fitted as module
from predictor.candidates import CANDIDATES
from predictor.corpus import CORPUS_READING, format_corpus, load_corpus, own_corpus_path
from predictor.examples import make_examples, usable
from predictor.fitted import FittedPredictor, fit_predictor, fitted_predictor, to_json
from predictor.held_out import Refits, half_widths
from predictor.likeness import case_range
from predictor.physical import CHOSEN
from predictor.recipe import recipe_of
from stability_probe.errors import MissingError
from stability_probe.limits import Limits
from stability_probe.plain import to_plain
from tests.predictor_factories import FAMILIES, make_characterization, make_corpus, make_corpus_row

ROOT = Path(__file__).parents[1]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.csv"
    path.write_text(format_corpus(make_corpus(np.random.default_rng(0), families=FAMILIES[:4])))
    return path


def cache() -> list[Path]:
    return sorted((Path(os.environ["XDG_CACHE_HOME"]) / "stability-probe").glob("*.json"))


def same(one: FittedPredictor, other: FittedPredictor) -> bool:
    """Equal, with nan equal to nan."""
    return to_json(one) == to_json(other)


def test_its_numbers_are_the_candidates(corpus: Path) -> None:
    got = fit_predictor([corpus])
    examples = make_examples(usable(load_corpus(corpus)))
    cases = [e.case for e in examples]
    expected = CANDIDATES[CHOSEN].fit(examples).estimates(cases)
    told = got.estimates(cases)
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(told, name), values)
    widths = half_widths(Refits(CANDIDATES[CHOSEN], examples))
    assert got.time_saved_half_width == widths["time_saved_pct"]
    ends = got.intervals(told, cases).accuracy_delta_pp
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * widths["accuracy_delta_pp"])
    assert got.known == case_range(cases)
    assert got.known.updates_per_epoch == (62.5, 62.5)


def test_a_fit_is_made_once_for_the_same_rows(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fitted_predictor(corpus)
    (stored,) = cache()
    monkeypatch.setattr(module, "fit_predictor", None)
    assert same(fitted_predictor(corpus), first)
    monkeypatch.undo()
    corpus.write_text(corpus.read_text().replace("alpha", "omega"))
    assert not same(fitted_predictor(corpus), first)
    assert stored in cache()
    assert len(cache()) == 2


def test_a_fit_belongs_to_its_limits(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = load_corpus(corpus)
    lost = {"adaptive_accuracies": (*rows[0].fixed_accuracies[:-1], 0.79)}
    long = [dataclasses.replace(r, epochs=60) for r in rows]
    one = [dataclasses.replace(r, **lost) if r.model == rows[0].model else r for r in long]
    corpus.write_text(format_corpus(one))
    first = fitted_predictor(corpus)
    lenient = fitted_predictor(corpus, Limits(max_accuracy_loss_pp=2.0))
    strict = fitted_predictor(corpus, Limits(min_time_saved_pct=99.0))
    assert len({first.key, lenient.key, strict.key}) == len(cache()) == 3
    assert (lenient.harm_rate, first.harm_rate) == (0.0, pytest.approx(1 / 8))
    monkeypatch.setattr(module, "fit_predictor", None)
    assert same(fitted_predictor(corpus, strict.limits), strict), "read back with its limits"
    cases = [e.case for e in make_examples(usable(load_corpus(corpus)))]
    assert strict.estimates(cases).probability_of_benefit.max() == 0.0
    assert first.estimates(cases).probability_of_benefit.max() > 0.5
    np.testing.assert_array_equal(
        strict.estimates(cases).time_saved_pct, first.estimates(cases).time_saved_pct
    )


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", "null", '{"key": "x"}', "\x00" * 40, '{"feature_low": 3}', '{"a": {}}'],
)
def test_a_damaged_store_is_made_anew(corpus: Path, damage: str) -> None:
    first = fitted_predictor(corpus)
    (stored,) = cache()
    stored.write_text(damage)
    assert same(fitted_predictor(corpus), first)
    assert json.loads(stored.read_text())["key"] == first.key


def test_a_store_of_other_rows_is_not_believed(corpus: Path) -> None:
    first = fitted_predictor(corpus)
    (stored,) = cache()
    stored.write_text(to_json(dataclasses.replace(first, key="of other rows", harm_rate=0.9)))
    assert fitted_predictor(corpus).harm_rate == first.harm_rate


def test_a_cache_that_cannot_be_written_costs_nothing_else(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fitted_predictor(corpus).basis.startswith("16 paired full runs")


def test_too_few_rows_leave_an_interval_without_ends(tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    path.write_text(format_corpus([make_corpus_row(family=f) for f in "abc"]))
    first = fitted_predictor(path)
    assert math.isinf(first.time_saved_half_width)
    assert same(fitted_predictor(path), first), "and comes back so"


def test_an_empty_corpus_cannot_be_fitted(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    path.write_text(format_corpus([make_corpus_row(scheduler="timed", scheduler_args="{}")]))
    with pytest.raises(MissingError, match=f"no finished pair.*{CORPUS_READING['reading']}"):
        fitted_predictor(path)
    with pytest.raises(MissingError, match="cannot read"):
        fitted_predictor(tmp_path / "missing.csv")


def test_own_rows_change_the_key_and_the_fit() -> None:
    before = fitted_predictor()
    assert cache() == [], "the shipped fit is used as it is"
    recipe = recipe_of(vars(usable(load_corpus())[0]))
    mine = make_corpus(np.random.default_rng(0), families=("mine",))
    rows = [dataclasses.replace(row, **dataclasses.asdict(recipe)) for row in mine]
    own_corpus_path().parent.mkdir(parents=True)
    own_corpus_path().write_text(format_corpus(rows))
    after = fitted_predictor()
    assert after.key != before.key
    families = {row.family for row in usable(load_corpus())}
    assert f"{len(families) + 1} families" in after.basis
    # Of another recipe they count for runs of that, once there are enough of them.
    own_corpus_path().write_text(format_corpus(mine))
    assert fitted_predictor().basis == before.basis


def test_to_be_scored_by_runs_it_must_not_know_them(corpus: Path, tmp_path: Path) -> None:
    rows = load_corpus(corpus)
    known = {row.fixed_run_id for row in rows if row.model == rows[0].model}
    others = [row for row in rows if row.fixed_run_id not in known]
    path = tmp_path / "others.csv"
    path.write_text(format_corpus(others))
    assert 0 < len(others) < len(rows)
    before = cache()
    got = fitted_predictor(corpus, without=known)
    assert to_json(got) == to_json(dataclasses.replace(fit_predictor([path]), key=""))
    assert cache() == before, "it is not what another prediction is made of"
    assert same(fitted_predictor(corpus, without={"no run"}), fitted_predictor(corpus))


def test_a_prediction_imports_neither_torch_nor_scikit_learn(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(to_plain(make_characterization())))
    code = (
        "import sys, json; from predictor import predict\n"
        "from stability_probe.plain import from_plain\n"
        "from stability_probe.records import Characterization\n"
        f"c = from_plain(Characterization, json.load(open({str(path)!r})))\n"
        "assert predict(c).verdict\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'mapie', 'timm', 'matplotlib', 'torchvision'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"

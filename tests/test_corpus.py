"""The corpus: what goes into the file comes back, labels by hand, damage named by line."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.corpus import (
    CORPUS_READING,
    CorpusRow,
    corpus_path,
    format_corpus,
    load_corpus,
    make_row,
)
from predictor.examples import is_corpus_reading, make_examples
from predictor.horizon import first_epochs
from stability_probe.config import DEFAULT_READING
from stability_probe.errors import MissingError
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.metrics import benefit_class, profile
from stability_probe.paired import compare_runs
from stability_probe.sweep import load_sweep, with_memory_format
from tests.predictor_factories import CURVE, make_corpus_row, make_run, make_size, outcome

SIZE = make_size()

# What a cell of a text file can hold: no line ends, no lone surrogates.
words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12)
numbers = st.floats(-1e30, 1e30, allow_nan=False)
whole = st.integers(-(10**12), 10**12)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "str": words,
    "int": whole,
    "bool": st.booleans(),
    "float": numbers,
    "float | None": st.none() | numbers,
    "tuple[int, ...]": st.lists(whole, max_size=4).map(tuple),
    "tuple[float, ...]": st.lists(numbers, max_size=4).map(tuple),
}
rows_strategy = st.builds(
    CorpusRow, **{f.name: KINDS[str(f.type)] for f in dataclasses.fields(CorpusRow)}
)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def rounded(value: Any) -> Any:
    """A field as six significant digits keep it."""
    if isinstance(value, tuple):
        return tuple(rounded(v) for v in value)
    return float(f"{value:.5e}") if isinstance(value, float) else value


@given(row=rows_strategy)
def test_a_row_comes_back_to_six_digits(row: CorpusRow, tmp_path_factory: Any) -> None:
    path = write(tmp_path_factory.mktemp("corpus") / "c.csv", format_corpus([row]))
    (back,) = load_corpus(path)
    for field in dataclasses.fields(CorpusRow):
        got, meant = getattr(back, field.name), rounded(getattr(row, field.name))
        assert got == meant, field.name
        assert type(got) is type(meant)


def test_the_file_reads_as_plain_csv_in_sorted_order(tmp_path: Path) -> None:
    rows = [
        make_corpus_row(family=f, model=f"{f}-{m}", data=d, arm=c, seed=s)
        for f in ("resnet", "vit")
        for m in "ab"
        for d in ("digits", "fashion-mnist")
        for c in ("deba", "other")
        for s in (0, 1, 10, 2)
    ]
    rows += [dataclasses.replace(r, fixed_run_id="at another rate") for r in rows]
    text = format_corpus(rows)
    for shuffle_seed in range(5):
        shuffled = list(rows)
        random.Random(shuffle_seed).shuffle(shuffled)
        assert format_corpus(shuffled) == text
    table = list(csv.reader(io.StringIO(text)))
    assert table[0] == [f.name for f in dataclasses.fields(CorpusRow)]
    columns = [table[0].index(n) for n in ("family", "model", "data", "arm", "seed")]
    keys = [(*(line[c] for c in columns[:4]), int(line[columns[4]])) for line in table[1:]]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(rows) / 2


def test_an_undefined_noise_scale_stays_undefined(tmp_path: Path) -> None:
    rows = [make_corpus_row(trace_sigma=None, seed=0), make_corpus_row(trace_sigma=0.0, seed=1)]
    back = load_corpus(write(tmp_path / "c.csv", format_corpus(rows)))
    assert [r.trace_sigma for r in back] == [None, 0.0]
    assert [r.window.noise_scale for r in back] == [None, 0.0]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("lr", "nan"),
        ("trace_sigma", "inf"),
        ("profile_losses", "1 -inf 1 1"),
        ("fixed_cpu_s", "1 nan 1 1"),
        ("lr", ""),
        ("seed", "1.5"),
        ("epochs", "many"),
        ("fixed_batch_sizes", "16 x"),
        ("reset_moments", "yes"),
    ],
)
def test_a_damaged_cell_is_named_by_its_line(tmp_path: Path, field: str, text: str) -> None:
    table = list(csv.reader(io.StringIO(format_corpus([make_corpus_row(seed=s) for s in (0, 1)]))))
    table[2][table[0].index(field)] = text
    path = tmp_path / "c.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)
    with pytest.raises(MissingError, match=r"c\.csv is damaged in line 3") as caught:
        load_corpus(path)
    assert "\n" not in str(caught.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    table = list(csv.reader(io.StringIO(format_corpus([make_corpus_row()]))))
    at = table[0].index("num_params")
    text = "".join(",".join(line[:at] + line[at + 1 :]) + "\n" for line in table)
    with pytest.raises(MissingError, match=r"not a corpus of this .*column num_params; move"):
        load_corpus(write(tmp_path / "c.csv", text))


@pytest.mark.parametrize(
    "missing",
    [
        (1),
        (3),
        (7),
        12,
    ],
)
def test_a_line_cut_short_is_damage(tmp_path: Path, missing: int) -> None:
    header, line = format_corpus([make_corpus_row()]).splitlines()
    cut = ",".join(line.split(",")[:-missing])
    with pytest.raises(MissingError, match="damaged in line 2"):
        load_corpus(write(tmp_path / "c.csv", f"{header}\n{cut}\n"))


def test_a_line_with_too_many_cells_is_damage(tmp_path: Path) -> None:
    header, line = format_corpus([make_corpus_row()]).splitlines()
    with pytest.raises(MissingError, match="damaged in line 2"):
        load_corpus(write(tmp_path / "c.csv", f"{header}\n{line},more\n"))


def test_a_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_bytes(b"\x89PNG\r\n\xff\xfe")
    with pytest.raises(MissingError, match=r"c\.csv"):
        load_corpus(path)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"cannot read .*nowhere\.csv: No such file"):
        load_corpus(tmp_path / "nowhere.csv")


def test_without_a_file_the_places_looked_at_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, checkout = tmp_path / "package", tmp_path / "checkout"
    (package / "corpus_data").mkdir(parents=True)
    (checkout / "data").mkdir(parents=True)
    monkeypatch.setattr("predictor.corpus.resources.files", lambda _: package)
    monkeypatch.setattr("predictor.corpus.__file__", str(checkout / "predictor" / "corpus.py"))
    with pytest.raises(MissingError, match=r"package.*checkout"):
        corpus_path()
    shipped = checkout / "data" / "corpus.csv"
    shipped.touch()
    assert corpus_path() == shipped
    installed = package / "corpus_data" / "corpus.csv"
    installed.touch()
    assert corpus_path() == installed, "the package comes first"


def test_labels_of_a_row_by_hand() -> None:
    row = make_corpus_row(
        fixed_cpu_s=(2.0, 2.0, 2.0, 2.0),
        adaptive_cpu_s=(2.0, 2.0, 1.0, 1.0),
        fixed_wall_s=1.0,
        adaptive_wall_s=9.0,
        fixed_accuracies=(0.1, 0.9, 0.95, 0.80),
        adaptive_accuracies=(0.1, 0.2, 0.3, 0.797),
    )
    assert row.time_saved_pct == pytest.approx(25.0)
    assert row.accuracy_delta_pp == pytest.approx(-0.3), "the final epoch, not the best"
    assert row.benefit_class(DEFAULT_LIMITS) == "benefits"
    busy = dataclasses.replace(make_corpus_row(**outcome(30.0, 0.0)), adaptive_cpu_s=(9.0,) * 4)
    assert (busy.time_saved_pct, busy.benefit_class(DEFAULT_LIMITS)) == (-800.0, "benefits"), (
        "by the curve"
    )
    assert make_corpus_row(**outcome(9.9, 3.0)).benefit_class(DEFAULT_LIMITS) == "neutral"
    assert make_corpus_row(**outcome(40.0, -0.6)).benefit_class(DEFAULT_LIMITS) == "harms"


def test_the_curve_of_a_row_is_the_measured_one() -> None:
    points = make_corpus_row().curve.points
    assert [(p.batch_size, p.samples_per_s) for p in points] == [
        (16, 100.0), (32, 150.0), (64, 200.0), (128, 240.0), (256, 250.0)
    ]  # fmt: skip


def make_pair(device: str = "cpu", last: float = 0.81) -> tuple[Any, Any]:
    """CPU seconds and wall clock disagree: 10 to 7 s against 10 to 9 s."""
    fixed = make_run(
        batch_sizes=(16,) * 4,
        accuracies=(0.2, 0.6, 0.82, 0.8),
        cpu_s=(2.0, 2.0, 3.0, 3.0),
        time_s=(2.5,) * 4,
        updates=(60, 60, 60, 60),
        norms=(1.0, 2.0, 3.0, 9.0),
        device=device,
        seed=3,
    )
    adaptive = make_run(
        batch_sizes=(16, 16, 32, 64),
        accuracies=(0.2, 0.6, 0.7, last),
        cpu_s=(2.0, 2.0, 2.0, 1.0),
        time_s=(2.5, 2.5, 2.5, 1.5),
        updates=(60, 60, 30, 15),
        norms=(1.0, 2.0, 5.0, 5.0),
        device=device,
        seed=3,
        scheduler="deba",
    )
    return fixed, adaptive


def test_a_row_from_two_runs() -> None:
    fixed, adaptive = make_pair()
    row = make_row(fixed, adaptive, CURVE, arm="deba", size=SIZE, max_batch_size=128)
    # the window is two epochs of the fixed run: norms 1 and 2, sample deviation √½
    assert row.window.stability_score == pytest.approx(1 / (1 + math.sqrt(0.5) / 1.5))
    assert row.window.grad_norm_variation == pytest.approx(1.0)
    assert row.window.loss_variation == 0.0
    assert row.window.noise_scale is None
    assert row.profile == profile(fixed.epochs)
    assert row.size == SIZE
    assert (row.model, row.family, row.scheduler, row.seed) == ("resnet10t", "resnet", "deba", 3)
    assert (row.fixed_batch_sizes, row.adaptive_batch_sizes) == ((16,) * 4, (16, 16, 32, 64))
    assert row.fixed_accuracies == (0.2, 0.6, 0.82, 0.8)
    assert row.adaptive_accuracies == (0.2, 0.6, 0.7, 0.81)
    assert (row.fixed_cpu_s, row.adaptive_cpu_s) == ((2.0, 2.0, 3.0, 3.0), (2.0, 2.0, 2.0, 1.0))
    assert (row.fixed_wall_s, row.adaptive_wall_s) == (10.0, 9.0)
    assert (row.fixed_updates, row.adaptive_updates) == (240, 165)
    assert (row.num_train, row.num_test, row.epochs, row.window_epochs) == (1000, 400, 4, 2)
    assert (row.normalization, row.max_batch_size) == ("batch", 128)
    assert (row.device, row.device_name, row.torch) == ("cpu", "a processor", "2.14.1")
    assert row.curve.points[-1].samples_per_s == 250.0
    assert (row.fixed_run_id, row.adaptive_run_id) == (fixed.run_id, adaptive.run_id)


def test_a_diverged_run_makes_a_row_that_says_so(tmp_path: Path) -> None:
    fixed, _ = make_pair()
    adaptive = make_run(
        batch_sizes=(), accuracies=(), cpu_s=(), status="diverged", scheduler="deba", seed=3
    )
    row = make_row(fixed, adaptive, CURVE, arm="deba", size=SIZE, max_batch_size=128)
    (back,) = load_corpus(write(tmp_path / "c.csv", format_corpus([row])))
    assert (back.fixed_status, back.adaptive_status) == ("finished", "diverged")
    assert back.adaptive_batch_sizes == ()


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        "cuda:0",
    ],
)
def test_a_row_and_a_comparison_agree_on_the_outcome(device: str) -> None:
    fixed, adaptive = make_pair(device=device)
    row = make_row(fixed, adaptive, CURVE, arm="deba", size=SIZE, max_batch_size=128)
    told = compare_runs(fixed, adaptive)
    assert row.accuracy_delta_pp == pytest.approx(told.accuracy_delta_pp)
    assert row.time_saved_pct == pytest.approx(told.time_saved_pct)
    measured = benefit_class(row.time_saved_pct, row.accuracy_delta_pp, DEFAULT_LIMITS)
    assert told.benefit_class == measured
    assert row.benefit_class(DEFAULT_LIMITS) == benefit_class(
        row.curve_saved_pct, row.accuracy_delta_pp, DEFAULT_LIMITS
    )


def test_time_saved_by_the_curve_is_that_of_the_batch_sizes() -> None:
    fixed, adaptive = make_pair()
    row = make_row(fixed, adaptive, CURVE, arm="deba", size=SIZE, max_batch_size=128)
    # epochs at 100, 100, 150 and 200 samples/s against four at 100
    assert row.curve_saved_pct == pytest.approx(100 * (1 - (0.02 + 1 / 150 + 1 / 200) / 0.04))


def test_a_profile_ends_with_the_papers_window() -> None:
    long = make_run(
        batch_sizes=(16,) * 20, accuracies=(0.5,) * 20, cpu_s=(1.0,) * 20, norms=range(1, 21)
    )
    row = make_row(long, long, CURVE, arm="fixed", size=SIZE, max_batch_size=128)
    assert row.profile_grad_norms == tuple(range(1, 16))
    assert row.profile.first(2).losses == (1.0, 1.0)


def test_the_corpus_was_measured_with_the_reading_that_validate_runs() -> None:
    """Each row's second run is one of the sweeps', whose identity holds the reading."""
    ids = set()
    for sweep in (Path(__file__).parents[1] / "data" / "sweeps").glob("corpus*.toml"):
        for config in (planned.config for planned in load_sweep(sweep)):
            if config.scheduler == "deba":
                assert config.scheduler_args == CORPUS_READING
            formats = ("channels_last", "contiguous")
            ids |= {with_memory_format(config, f).run_id() for f in formats}
    assert {row.adaptive_run_id for row in load_corpus()} <= ids


def test_predictions_speak_of_the_corpus_reading_of_deba_alone() -> None:
    """A schedule of another name may have arguments that look the same."""
    assert is_corpus_reading("deba", CORPUS_READING)
    assert not is_corpus_reading("timed", CORPUS_READING)
    assert not is_corpus_reading("deba", CORPUS_READING | {"window": 5})
    default = is_corpus_reading("deba", {})
    assert default == (CORPUS_READING == {"reading": DEFAULT_READING})


def test_a_run_is_as_good_as_each_of_its_last_epochs() -> None:
    """Twenty epochs: five of them are looked at. Eight epochs: two, a quarter."""
    fixed = [0.5 + 0.01 * i for i in range(20)]
    moves = [0.0] * 15 + [0.01, -0.01, 0.0, 0.02, -0.02]
    row = make_corpus_row(
        epochs=20,
        fixed_batch_sizes=(16,) * 20,
        adaptive_batch_sizes=(16,) * 10 + (64,) * 10,
        fixed_accuracies=tuple(fixed),
        adaptive_accuracies=tuple(f + m for f, m in zip(fixed, moves, strict=True)),
    )
    assert row.end_deltas_pp == pytest.approx((1.0, -1.0, 0.0, 2.0, -2.0))
    assert row.end_deltas_pp[-1] == row.accuracy_delta_pp
    assert row.benefit_share(DEFAULT_LIMITS) == pytest.approx(3 / 5)
    assert row.benefit_share(Limits(max_accuracy_loss_pp=1.5)) == pytest.approx(4 / 5)
    assert row.benefit_share(Limits(min_time_saved_pct=30.0)) == 0.0, "the time saved is 25 %"
    flat = dataclasses.replace(row.curve, points=row.curve.points[:1])
    assert row.benefit_share(DEFAULT_LIMITS, flat) == 0.0, "on a device that gains nothing"
    assert len(first_epochs(row, 8).end_deltas_pp) == 2
    assert len(first_epochs(row, 3).end_deltas_pp) == 1
    lost = dataclasses.replace(row, adaptive_status="diverged")
    assert lost.end_deltas_pp == (lost.accuracy_delta_pp,)
    assert lost.benefit_share(DEFAULT_LIMITS) == 0.0
    (example,) = make_examples([row])
    assert example.benefit_share == pytest.approx(3 / 5)
    assert example.harm_share == pytest.approx(2 / 5)
    assert example.mean_end_delta_pp == pytest.approx(0.0)
    assert example.harms, "by its last epoch"

"""The page: what it says, what it escapes, what it refuses, and that it needs nothing else."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from cli import probe
from predictor import predict, summary
from predictor.corpus import CORPUS_READING
from predictor.fitted import fitted_predictor
from predictor.judge import judge
from predictor.report import make_report, render, write_report
from stability_probe import store
from stability_probe.errors import MissingError, RunError, UsageError
from stability_probe.limits import Limits
from stability_probe.paired import compare_runs
from stability_probe.plain import from_plain, to_plain
from stability_probe.records import RunResult, Study
from stability_probe.series import speed_ups
from stability_probe.stored import Probed, load_stored
from tests.factories import make_curve
from tests.predictor_factories import make_prediction, make_run
from tests.report_factories import (
    EPOCHS,
    SETTINGS,
    STUDIES,
    Page,
    config_of,
    keep_probe,
    keep_run,
    make_pair,
    probed,
)

EVIL = "<script>alert(1)</script>"
SVG = re.compile(r"<svg .*?</svg>", re.DOTALL)


def invoke(*args: str) -> Result:
    return CliRunner().invoke(probe, ["report", *args], prog_name="probe")


def shown(*names: str, root: Path) -> Page:
    return Page(render(make_report([load_stored(name, root) for name in names], root)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe with three seeds, of which two have their full runs."""
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        for run in make_pair(seed=seed):
            keep_run(root, run)
    keep_probe(root, probed())
    return root


@pytest.fixture(scope="module")
def names(root: Path) -> dict[str, str]:
    """What is stored, by its kind."""
    (c,) = root.glob("characterizations/*.json")
    fixed, adaptive = make_pair(seed=0)
    return {"probe": str(c), "fixed": fixed.run_id, "run": adaptive.run_id}


@pytest.fixture(scope="module")
def page(root: Path, names: dict[str, str]) -> Page:
    """Of every kind at once."""
    study, ablation = (STUDIES / f"{n}-test_vit.json" for n in ("compare", "ablate"))
    return shown(*names.values(), str(study), str(ablation), root=root)


@pytest.fixture(scope="module")
def probe_page(root: Path, names: dict[str, str]) -> Page:
    return shown(names["probe"], root=root)


# What it says


def test_the_verdict_comes_first(probe_page: Page, names: dict[str, str], root: Path) -> None:
    stored = load_stored(names["probe"], root)
    assert isinstance(stored, Probed)
    p = stored.prediction
    assert p.verdict == "abstain"
    words = probe_page.words
    assert words.index("CANNOT SAY") < words.index("samples/s")
    assert probe_page.text.index("CANNOT SAY") < probe_page.text.index("<svg")
    assert p.reason[1:].rstrip(".") in words
    assert f"{p.time_saved_pct:+.0f} %" in words
    assert "window of 2 epochs" in p.reason
    assert "no interval" in words
    assert "90 % interval +" not in words
    assert p.basis in words


@pytest.mark.parametrize(
    ("verdict", "words", "tone"),
    [
        ("adapt", "ADAPT the batch", "good"),
        ("keep_fixed", "KEEP the batch FIXED", "plain"),
        ("abstain", "CANNOT SAY", "unsure"),
    ],
)
def test_every_verdict_has_its_words(verdict: str, words: str, tone: str, tmp_path: Path) -> None:
    stored = Probed(characterization=probed(), prediction=make_prediction(verdict=verdict))
    (section,) = make_report([stored], tmp_path).sections
    assert (section.verdict.words, section.verdict.tone) == (words, tone)


def test_the_prediction_is_taken_apart_as_it_is_made(probe_page: Page) -> None:
    told = predict(probed())
    rows = probe_page.downloads()["m1-rehearsals.csv"]
    saved = {(seed, number): float(pct) for seed, number, _, _, pct in rows[1:]}
    assert len(saved) == 2 * 4
    assert sum(saved.values()) / len(saved) == pytest.approx(told.time_saved_pct)
    assert len(rows) == 1 + len(saved) * EPOCHS
    assert f"= {told.probability_of_benefit:.2f}" in probe_page.words
    assert "verdict is the one that was stored" not in probe_page.words


def test_a_page_keeps_the_limits_of_its_prediction(tmp_path: Path) -> None:
    limits = Limits(min_time_saved_pct=20.0, max_accuracy_loss_pp=1.5)
    stored = Probed(characterization=probed(), prediction=predict(probed(), limits=limits))
    page = Page(render(make_report([stored], tmp_path)))
    assert "at least 20 % less time, at most 1.5 points less accuracy" in page.words
    assert "rehearsals that save at least 20 %" in page.words
    assert "lost more than 1.5 points of accuracy" in page.words
    assert "--min-time-saved 20 --max-accuracy-loss 1.5" in page.words
    # The scores beside it are those of the shipped rows, at the limits that they were made with.
    assert "a benefit: at least 10 % less time, at most 0.5 points" in page.words
    assert "verdict is the one that was stored" not in page.words


def test_a_stored_verdict_of_other_rows_says_so(tmp_path: Path) -> None:
    stored = Probed(characterization=probed(), prediction=make_prediction(time_saved_pct=77.0))
    page = Page(render(make_report([stored], tmp_path)))
    assert "+77 %" in page.words
    told = predict(probed())
    assert f"it would be {told.time_saved_pct:+.0f} % of the time" in page.words


def test_predicted_stands_beside_what_the_pairs_measured(probe_page: Page, root: Path) -> None:
    outcomes = [compare_runs(*make_pair(seed=seed)) for seed in (0, 1)]
    # What is stored was told without an interval, the other with one.
    told = Probed(characterization=probed(), prediction=make_prediction())
    other = Page(render(make_report([told], root)))
    for page, ends in ((probe_page, []), (other, ["predicted low", "predicted high"])):
        rows = page.downloads()["m1-validation.csv"]
        assert [row[0] for row in rows] == ["what", "predicted", *ends, "seed 0", "seed 1"]
        for row, o in zip(rows[-2:], outcomes, strict=True):
            assert row[1:] == [str(o.time_saved_pct), str(o.accuracy_delta_pp)]
    low, high = other.downloads()["m1-validation.csv"][2:4]
    assert (low[1:], high[1:]) == (["10.0", "-1.0"], ["30.0", "2.0"])
    assert "90 % interval +10 to +30" in other.words
    assert "Measured since, 2 pairs of full runs: time saved +25.0 ± 0.0 %" in probe_page.words


def test_without_full_runs_it_says_how_to_make_them(tmp_path: Path) -> None:
    page = shown(str(keep_probe(tmp_path, probed())), root=tmp_path)
    assert "No full runs of it are stored here" in page.words
    assert "Predicted beside measured" not in page.words
    assert "probe validate resnet10t --epochs 6 --window 2 --seeds 0,1" in page.words


def test_a_run_stands_beside_its_fixed_run(root: Path, names: dict[str, str]) -> None:
    page = shown(names["run"], root=root)
    assert "PAID OFF ONCE" in page.words
    assert "+25 %" in page.words
    assert "+1.0 points" in page.words
    # the fixed run's last changes of 10, 10, 10, 5 and 5 points
    assert "own accuracy moves by 8.4 points an epoch at the end" in page.words
    assert names["fixed"] in page.words
    runs = {row[0] for row in page.downloads()["m1-accuracy.csv"][1:]}
    assert runs == {"deba", "fixed batch"}
    assert "Predicted beside measured" in page.words  # its reading is the corpus'


def test_a_run_is_judged_by_the_limits_that_its_probe_was_asked_with(tmp_path: Path) -> None:
    names = [keep_run(tmp_path, run) for run in make_pair()]
    strict = make_prediction(limits=Limits(min_time_saved_pct=90.0), verdict="keep_fixed")
    store.Store(tmp_path).save_characterization(probed(), strict)
    (c,) = tmp_path.glob("characterizations/*.json")
    run = shown(names[1], root=tmp_path)
    assert "GAINED LITTLE ONCE" in run.words
    assert "Paying off means at least 90 % less time" in run.words
    assert re.search(r"seed 0\+25\.0.*neutral\n", shown(str(c), root=tmp_path).words)


def test_a_prediction_is_not_held_against_another_schedule(root: Path, tmp_path: Path) -> None:
    _, timed = make_pair(seed=0, scheduler="timed", scheduler_args={})
    page = Page(render(make_report([timed], root)))
    assert f"speaks of DEBA in its reading {CORPUS_READING['reading']}" in page.words
    assert "Predicted beside measured" not in page.words


def test_the_latest_of_several_probes_is_held_against_a_run(tmp_path: Path) -> None:
    names = [keep_run(tmp_path, run) for run in make_pair()]
    for number in range(11):
        told = make_prediction(time_saved_pct=10.0 + number)
        store.Store(tmp_path).save_characterization(probed(), told)
    store.Store(tmp_path).save_characterization(
        probed(config={"lr": 0.5}), make_prediction(time_saved_pct=70.0)
    )
    rows = shown(names[1], root=tmp_path).downloads()["m1-validation.csv"]
    assert rows[1][1] == "20.0"


def test_a_fixed_run_is_no_gain(root: Path, names: dict[str, str]) -> None:
    page = shown(names["fixed"], root=root)
    assert "It is itself the fixed batch" in page.words
    assert {row[0] for row in page.downloads()["m1-batch.csv"][1:]} == {"fixed"}


def test_a_run_without_its_fixed_run_says_so(tmp_path: Path) -> None:
    page = shown(keep_run(tmp_path, make_pair()[1]), root=tmp_path)
    assert "No finished fixed run of the same model, data and seed" in page.words


def test_a_fixed_run_of_another_machine_is_not_compared_with(tmp_path: Path) -> None:
    fixed, run = make_pair()
    there = dataclasses.replace(fixed, environment={"device_name": "another"})
    keep_run(tmp_path, there)
    page = shown(keep_run(tmp_path, run), root=tmp_path)
    assert "another machine (another; this one a processor, torch 2.14.1)" in page.words
    assert "PAID OFF" not in page.words
    asked = str(keep_probe(tmp_path, probed()))
    words = shown(asked, root=tmp_path).words
    assert "another machine (another; a processor, torch 2.14.1) than it speaks of" in words


def test_a_study_of_two_machines_says_so(tmp_path: Path) -> None:
    study = load_stored(str(next(STUDIES.glob("compare-*.json"))), tmp_path)
    assert isinstance(study, Study)
    arms = tuple(dataclasses.replace(a, time_saved_pct=None) for a in study.arms)
    contrasts = tuple(dataclasses.replace(c, time_saved_pct=None) for c in study.contrasts)
    mixed = dataclasses.replace(
        study, arms=arms, contrasts=contrasts, machines=("one processor", "another")
    )
    for told, expected in ((study, False), (mixed, True)):
        words = Page(render(make_report([told], tmp_path))).words
        assert ("2 machines (one processor; another)" in words) is expected


def test_a_run_under_way_and_one_that_diverged_are_told_as_such(tmp_path: Path) -> None:
    run = make_pair()[1]
    half = dataclasses.replace(run, epochs=run.epochs[:3])
    page = shown(keep_run(tmp_path, half, done=False), root=tmp_path)
    assert "NOT FINISHED" in page.words
    assert "3 of 6 epochs are done" in page.words
    (tmp_path / "other").mkdir()
    for epochs in ((), run.epochs[:2]):
        bad = dataclasses.replace(run, status="diverged", epochs=epochs)
        page = Page(render(make_report([bad], tmp_path)))
        assert "DIVERGED" in page.words
        assert f"non-finite in epoch {len(epochs) + 1} of 6" in page.words
        assert ("<svg" in page.text) == bool(epochs)


def test_a_run_that_only_just_began_has_no_figure(tmp_path: Path) -> None:
    run = dataclasses.replace(make_pair()[1], epochs=())
    page = shown(keep_run(tmp_path, run, done=False), root=tmp_path)
    assert "0 of 6 epochs are done" in page.words


def test_a_characterization_of_an_older_version_is_shown(tmp_path: Path) -> None:
    path = keep_probe(tmp_path, probed())
    content = json.loads(path.read_text())
    c = content["characterization"]
    del c["size"], c["curve"]["time_s"], c["curve"]["stopped_by"]
    del content["prediction"]["alternative"]
    c["environment"] = {}
    del content["crc32"]  # older versions wrote none
    for window in c["windows"]:
        for epoch in window:
            for name in ("eval_s", "peak_memory_bytes", "evidence", "grad_component_variance_last"):
                del epoch[name]
    path.write_text(json.dumps(content))
    page = shown(str(path), root=tmp_path)
    assert "not recorded" in page.words
    assert "undefined" in page.words  # the work of a model whose size is not known


def test_a_busy_machine_and_a_cut_curve_are_told(tmp_path: Path) -> None:
    curve = dataclasses.replace(
        make_curve((16, 32), (100.0, 150.0)), busy=True, stopped_by="out of memory"
    )
    page = shown(str(keep_probe(tmp_path, probed(curve=curve))), root=tmp_path)
    assert "machine was busy" in page.words
    assert "The curve ends early: out of memory" in page.words


def test_a_study_says_what_to_use_and_shows_every_arm(page: Page) -> None:
    study = store.read_study(STUDIES / "compare-test_vit.json")
    assert "MOST SAVED by fixed x8, lr x8" in page.words  # no loss is ruled out
    assert study.advice in page.words
    rows = page.downloads()["m4-arms.csv"]
    assert len(rows) == 1 + len(study.arms) * len(study.seeds)
    values = [float(row[4]) for row in rows if row[0] == "deba"]
    deba = next(arm for arm in study.arms if arm.name == "deba")
    assert deba.time_saved_pct is not None
    assert tuple(values) == deba.time_saved_pct.values
    ablation = store.read_study(STUDIES / "ablate-test_vit.json")
    for claim in ablation.claims:
        assert claim.text in page.words


def test_what_validate_printed_is_shown(tmp_path: Path) -> None:
    pairs = [make_pair(seed=seed) for seed in (0, 1)]
    outcomes = [compare_runs(*pair) for pair in pairs]
    v = judge(config_of(pairs[0][0]), (0, 1), make_prediction(verdict="adapt"), outcomes)
    miss = dataclasses.replace(v.comparisons[0], time_to_target_saved_pct=-float("inf"))
    v = dataclasses.replace(v, comparisons=(miss, v.comparisons[1]), time_to_target_saved_pct=None)
    (tmp_path / "v.json").write_text(json.dumps(summary.validation_json(v)))
    loaded = load_stored(str(tmp_path / "v.json"), tmp_path)
    assert loaded == dataclasses.replace(v, config=loaded.config)  # type: ignore[union-attr]
    page = shown(str(tmp_path / "v.json"), root=tmp_path)
    assert "The prediction held." in page.words
    assert "Measured since: time saved +25.0 ± 0.0 %" in page.words


# Several models


def test_the_model_that_gains_most_comes_first(tmp_path: Path) -> None:
    c = probed()
    told = [("a", "keep_fixed", 60.0), ("b", "adapt", 20.0), ("c", "abstain", 50.0)]
    told += [("d", "adapt", 35.0)]
    stored = [
        Probed(
            characterization=dataclasses.replace(c, config={**c.config, "model": model}),
            prediction=make_prediction(verdict=verdict, time_saved_pct=saved),
        )
        for model, verdict, saved in told
    ]
    report = make_report(stored, tmp_path)
    assert [s.title for s in report.sections] == ["d", "b", "c", "a"]
    assert report.ranking is not None
    assert [row[0] for row in report.ranking.rows] == ["1. d", "2. b", "3. c", "4. a"]
    page = Page(render(report))
    assert page.words.index("Which model gains most") < page.words.index("1. d")
    links = [a["href"] for tag, a in page.tags if tag == "a" and "download" not in a]
    ids = [a.get("id") for tag, a in page.tags if tag == "section"]
    assert links == [f"#{anchor}" for anchor in ids]


def test_what_was_measured_outranks_what_was_told(root: Path, names: dict[str, str]) -> None:
    report = make_report([load_stored(names[n], root) for n in ("fixed", "probe")], root)
    assert [s.kind for s in report.sections] == ["probe", "run"]
    assert [s.gain.known for s in report.sections] == [
        "measured: 2 of 2 pairs paid off",
        "nothing to compare",
    ]


def test_a_single_model_is_not_ranked(probe_page: Page) -> None:
    assert "Which model gains most" not in probe_page.words


# The data


def test_csv_equals_the_records(root: Path, names: dict[str, str]) -> None:
    run = load_stored(names["run"], root)
    assert isinstance(run, RunResult)
    files = shown(names["run"], root=root).downloads()
    head, *rows = files["m1-epochs.csv"]
    assert len(rows) == len(run.epochs)
    for row, epoch in zip(rows, run.epochs, strict=True):
        for name, cell in zip(head, row, strict=True):
            value = getattr(epoch, name)
            assert cell == ("" if value is None else str(value)), name
    own = [row for row in files["m1-batch.csv"] if row[0] == "deba"]
    assert [int(row[2]) for row in own] == list(run.batch_sizes)


def test_csv_of_the_curve_and_the_window_equals_the_records(probe_page: Page) -> None:
    c, files = probed(), probe_page.downloads()
    assert files["m1-throughput.csv"][1:] == [
        [str(v) for v in (p.batch_size, p.samples_per_s, p.spread, ratio)]
        for p, ratio in zip(c.curve.points, speed_ups(c.curve, 16), strict=True)
    ]
    assert files["m1-norms.csv"][1:] == [
        [str(v) for v in (seed, e.epoch, e.grad_norm, e.grad_norm_sem)]
        for seed, window in zip(c.seeds, c.windows, strict=True)
        for e in window
    ]


def test_no_cell_of_the_page_is_a_formula(tmp_path: Path) -> None:
    run = make_pair()[1]
    epochs = [dataclasses.replace(e, reason="=HYPERLINK(0)") for e in run.epochs]
    page = Page(render(make_report([dataclasses.replace(run, epochs=tuple(epochs))], tmp_path)))
    head, *rows = page.downloads()["m1-epochs.csv"]
    assert {row[head.index("reason")] for row in rows} == {"'=HYPERLINK(0)"}


# The file


def test_a_model_named_as_a_script_is_shown_not_run(tmp_path: Path) -> None:
    run = make_pair(model=EVIL, data=f"folder:{EVIL}")[1]
    epochs = [dataclasses.replace(e, reason=EVIL, action="increase") for e in run.epochs]
    evil = dataclasses.replace(
        run, run_id=EVIL, environment={"device_name": EVIL, EVIL: "x"}, epochs=tuple(epochs)
    )
    c = probed(config={"model": EVIL})
    curve = dataclasses.replace(c.curve, stopped_by=EVIL, memory_format_reason=EVIL)
    stored = Probed(
        characterization=dataclasses.replace(c, curve=curve),
        prediction=make_prediction(reason=EVIL, basis=EVIL, alternative=EVIL),
    )
    study = json.loads((STUDIES / "compare-test_vit.json").read_text().replace("deba", EVIL))
    (tmp_path / "s.json").write_text(json.dumps(study))
    page = Page(
        render(make_report([evil, stored, store.read_study(tmp_path / "s.json")], tmp_path))
    )
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.words.count(EVIL) > 10
    for svg in SVG.findall(page.text):
        tags = [e.tag.split("}")[1] for e in ElementTree.fromstring(svg).iter()]
        assert "script" not in tags


def test_the_same_input_gives_the_same_bytes(
    root: Path, names: dict[str, str], tmp_path: Path, page: Page
) -> None:
    study, ablation = (STUDIES / f"{n}-test_vit.json" for n in ("compare", "ablate"))
    arguments = [*names.values(), str(study), str(ablation), "--runs", str(root)]
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": "7",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "cli", "report", *arguments, "-o", "r.html"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "r.html\n", "")
    assert (tmp_path / "r.html").read_text() == page.text


def test_every_figure_is_well_formed_and_says_what_it_shows(page: Page) -> None:
    found = SVG.findall(page.text)
    assert len(found) == sum(tag == "figure" for tag, _ in page.tags) > 15
    for svg in found:
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        texts = {e.get("id"): e.text for e in root.iter()}
        title, words = (texts[name] for name in str(root.get("aria-labelledby")).split())
        assert title
        assert words
        assert re.search(r"\d", words)
        assert root.get("viewBox")
        assert root.get("width") is None


def test_ids_are_unique_and_every_reference_has_one(page: Page) -> None:
    ids = [str(a["id"]) for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = set(re.findall(r'(?:xlink:href|href)="#([^"]+)"|url\(#([^)]+)\)', page.text))
    assert wanted
    assert {a or b for a, b in wanted} <= set(ids)


def test_the_page_fetches_nothing(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name.startswith("xmlns"):
                continue
            assert "//" not in (value or "").split(",")[0], (tag, name)
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href"):
                assert str(value).startswith(("#", "data:")), (tag, value)
            assert "url(" not in (value or "").replace("url(#", "")
    assert "url(" not in page.style
    assert "@import" not in page.style
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_it_has_rules_for_the_dark_for_paper_and_for_telephones(page: Page) -> None:
    assert "prefers-color-scheme: dark" in page.style
    assert "@media print" in page.style
    assert "max-width: 32rem" in page.style
    assert any(a.get("name") == "viewport" for _, a in page.tags)
    # Colours that would vanish in the dark come from the page.
    drawn = "".join(SVG.findall(page.text))
    assert "#000000" not in drawn
    assert "currentColor" in drawn


# The command


def test_the_command_prints_the_path_or_one_object(
    root: Path, names: dict[str, str], tmp_path: Path
) -> None:
    out = str(tmp_path / "r.html")
    result = invoke(names["run"], "-o", out, "--runs", str(root))
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{out}\n", "")
    told = json.loads(invoke(names["run"], "-o", out, "--runs", str(root), "--json").stdout)
    ranked = [{"model": "resnet10t", "kind": "run", "answer": "PAID OFF ONCE"}]
    assert told == {"schema_version": 1, "file": out, "ranked": ranked}
    assert not [p for p in tmp_path.iterdir() if p.name != "r.html"]


def test_a_missing_run_a_damaged_file_and_no_name_are_told(root: Path, tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "r.html"), "--runs", str(root)]
    result = invoke("resnet10t-deba-s0-0000000000", *out)
    assert result.exit_code == 2
    assert "did you mean resnet10t-deba" in result.stderr
    for content in ("{", "[]", "{}", '{"study": 3}', '{"comparisons": 1, "measured": {}}'):
        (tmp_path / "x.json").write_text(content)
        result = invoke(str(tmp_path / "x.json"), *out)
        assert (result.exit_code, result.stdout) == (4, ""), content
        assert result.stderr.count("\n") == 1
    assert invoke(*out).exit_code == 2
    assert not (tmp_path / "r.html").exists()


def test_only_an_earlier_report_is_overwritten(root: Path, names: dict[str, str]) -> None:
    run = root / names["run"]
    before = {path: path.read_bytes() for path in run.iterdir()}
    for path in (*before, run, Path(names["probe"])):
        result = invoke(names["run"], "-o", str(path), "--runs", str(root))
        assert result.exit_code == 2, path
        assert result.stdout == ""
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_a_folder_that_is_not_there_or_takes_no_file(
    root: Path, names: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match="there is no folder"):
        write_report([names["run"]], tmp_path / "no" / "r.html", root)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    out = tmp_path / "r.html"
    write_report([names["run"]], out, root)
    before = out.read_bytes()
    monkeypatch.setattr("os.fsync", refuse)
    result = invoke(names["fixed"], "-o", str(out), "--runs", str(root))
    assert result.exit_code == 3
    assert "no permission" in result.stderr
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("prediction", "verdict"), "maybe"),
        (("characterization", "curve", "points"), []),
        (("characterization", "windows"), 3),
        (("characterization", "config", "lr"), "fast"),
        (("characterization", "probe_s"), None),
    ],
)
def test_values_that_do_not_fit_are_told(
    tmp_path: Path, path: tuple[str, ...], value: object
) -> None:
    stored = keep_probe(tmp_path, probed())
    content = json.loads(stored.read_text())
    at = content
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    stored.write_text(json.dumps(content))
    result = invoke(str(stored), "-o", str(tmp_path / "r.html"), "--runs", str(tmp_path))
    assert result.exit_code in (2, 4)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "r.html").exists()


def test_a_damaged_run_is_told(tmp_path: Path) -> None:
    name = keep_run(tmp_path, make_pair()[1])
    (tmp_path / name / "result.json").write_text('{"run_id": 3}')
    with pytest.raises(MissingError, match="damaged"):
        write_report([name], tmp_path / "r.html", tmp_path)
    with pytest.raises(UsageError):
        write_report(["nothing"], tmp_path / "r.html", tmp_path)


def test_a_report_imports_no_heavy_library(
    root: Path, names: dict[str, str], tmp_path: Path
) -> None:
    # The fit for runs of this length, which characterize has made and kept.
    fitted_predictor(epochs=EPOCHS)
    script = (
        "import sys, cli\n"
        f"sys.argv = ['probe', 'report', *{list(names.values())!r}, '--runs', {str(root)!r}]\n"
        "try: cli.main()\n"
        "except SystemExit as end: code = end.code\n"
        "heavy = {'torch', 'timm', 'sklearn', 'scipy', 'mapie', 'matplotlib.pyplot'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_long_run_keeps_every_epoch(tmp_path: Path) -> None:
    count = 300
    run = make_run(
        batch_sizes=(16,) * count, accuracies=(0.5,) * count, cpu_s=(1.0,) * count,
        **{**SETTINGS, "epochs": count},
    )  # fmt: skip
    again = from_plain(RunResult, to_plain(run))
    page = Page(render(make_report([again], tmp_path)))
    assert len(page.downloads()["m1-epochs.csv"]) == 1 + count

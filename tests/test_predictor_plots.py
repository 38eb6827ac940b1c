"""Figures of predictions: the lines drawn, the files written for whatever is stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from predictor.features import make_cases
from predictor.physical import rehearsals
from predictor.plots import draw_rehearsals, draw_told, write_plots
from predictor.scores import load_held_out
from stability_probe.stored import load_stored
from tests.report_factories import STUDIES, keep_probe, keep_run, make_pair, probed


def test_every_rehearsal_is_drawn() -> None:
    c, ax = probed(), Figure().subplots()
    cases = make_cases(c)
    draw_rehearsals(ax, cases, c.seeds)
    paths = [path for case in cases for path in rehearsals(case)]
    assert [line.get_ydata().tolist() for line in ax.lines] == [list(path) for path in paths]  # type: ignore[union-attr]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["seed 0", "seed 1"]


def test_every_case_held_out_is_drawn_where_it_was_told() -> None:
    held, ax = load_held_out(), Figure().subplots()
    draw_told(ax, held.cases, held.interval_level)
    points = [line.get_xydata() for line in ax.lines if line.get_linestyle() == "None"]
    drawn = np.concatenate([np.asarray(p) for p in points])
    told = [(c.time_saved_told_pct, c.measured_saved_pct) for c in held.cases]
    assert sorted(map(tuple, drawn)) == sorted(told)
    assert "90 %" in ax.get_title()


@pytest.mark.parametrize("fmt", ["png", "svg", "pdf"])
def test_whatever_is_stored_is_drawn(tmp_path: Path, fmt: str) -> None:
    fixed, adaptive = make_pair()
    names = [keep_run(tmp_path, fixed), keep_run(tmp_path, adaptive)]
    names += [str(keep_probe(tmp_path, probed())), str(STUDIES / "compare-test_vit.json")]
    for name in names:
        stored = load_stored(name, tmp_path)
        (path,) = write_plots(stored, tmp_path, tmp_path / "figures", fmt)
        assert path.suffix == f".{fmt}"
    if fmt == "svg":
        texts = {p.stem: p.read_text() for p in (tmp_path / "figures").iterdir()}
        # Glyphs are paths, and a comment before them holds their text.
        assert "<!-- fixed batch -->" in texts[adaptive.run_id]
        assert "<!-- fixed batch -->" not in texts[fixed.run_id]
        (probe,) = (t for stem, t in texts.items() if stem.endswith("-1-characterization"))
        assert "Rehearsed batch sizes" in probe


def test_two_probes_of_a_model_are_two_figures(tmp_path: Path) -> None:
    figures = set()
    for _ in range(2):
        stored = load_stored(str(keep_probe(tmp_path, probed())), tmp_path)
        figures |= set(write_plots(stored, tmp_path, tmp_path / "figures", "svg"))
    assert len(figures) == 2

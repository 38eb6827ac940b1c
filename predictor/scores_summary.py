"""Scores of the predictor as JSON for programs and as one screen for people."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from predictor.evaluate import Scores, Spread
from stability_probe.records import to_plain
from stability_probe.run_summary import SCHEMA_VERSION


def scores_json(scores: Scores, spread: Spread) -> dict[str, Any]:
    """The object that `probe evaluate --json` prints."""
    return {"schema_version": SCHEMA_VERSION, **to_plain(scores), "spread": to_plain(spread)}


def scores_table(s: Scores, spread: Spread) -> Group:
    """The screen that `probe evaluate` prints: each score beside the baseline it must beat."""
    counts = ", ".join(f"{count} {name}" for name, count in s.class_counts.items())
    head = f"{s.num_rows} rows, {s.num_models} models, {s.num_families} families: {counts}"
    level = f"{s.interval_level:.2f}"
    rows = (
        ("answered", f"{s.answered} of {s.num_rows}", "", "the rest abstained"),
        ("right when answered", _score(s.accuracy), _score(s.majority_accuracy), "majority"),
        ("balanced accuracy", _score(s.balanced_accuracy), "0.50", "chance"),
        ("Brier score", f"{s.brier:.3f}", f"{s.brier_base_rate:.3f}", "share of benefits"),
        (
            "error of time saved, points",
            _score(s.time_saved_mae),
            _score(s.time_saved_mae_mean),
            "mean",
        ),
        (
            "error of accuracy change, points",
            _score(s.accuracy_delta_mae),
            _score(s.accuracy_delta_mae_mean),
            "mean",
        ),
        ("coverage, time saved", _score(s.time_saved_coverage), level, "nominal"),
        ("coverage, accuracy change", _score(s.accuracy_delta_coverage), level, "nominal"),
    )
    table = Table(box=None, pad_edge=False)
    for column in ("families held out", "predictor", "beside", ""):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    return Group(Text(head), Text(), table, Text(), _spread_lines(spread))


def _spread_lines(s: Spread) -> Group:
    table = Table(box=None, pad_edge=False)
    for column in ("measured", "mean", "SD between seeds", "SD between models", "range"):
        table.add_column(column)
    low, high = s.time_saved_range_pct
    table.add_row(
        "time saved, %",
        f"{s.time_saved_mean_pct:.1f}",
        f"{s.time_saved_seed_sd:.1f}",
        f"{s.time_saved_model_sd:.1f}",
        f"{low:.1f} to {high:.1f}",
    )
    table.add_row(
        "accuracy change, points",
        f"{s.accuracy_delta_mean_pp:+.2f}",
        f"{s.accuracy_delta_seed_sd:.2f}",
        f"{s.accuracy_delta_model_sd:.2f}",
    )
    replay = (
        "time saved from a run's own batch sequence and the throughput curve:\n"
        f"r = {_score(s.replay_correlation)}, mean error {s.replay_mae:.1f} points"
    )
    return Group(table, Text(), Text(replay))


def _score(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"

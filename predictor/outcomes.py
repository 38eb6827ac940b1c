"""What full runs measured: schedule by schedule, and architecture by architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from predictor import bootstrap
from predictor.corpus import CorpusRow, in_order
from predictor.examples import learned, usable
from predictor.scores import Score
from stability_probe import metrics
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.records import MeanStd


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What a schedule did in all its full runs, and beside DEBA with the same seeds."""

    name: str
    num_rows: int
    time_saved_pct: Score | None
    """By the curve."""
    accuracy_delta_pp: Score | None
    benefits: Score | None
    """Share of the rows."""
    deba_saves_more_pct: Score | None
    """DEBA's time saved minus the arm's, of the runs that both made."""
    deba_more_accurate_pp: Score | None
    same_batches: int | None
    """Runs whose batch sizes are DEBA's own, epoch by epoch: with the same seed that is one run."""


@dataclass(frozen=True, kw_only=True)
class ModelOutcome:
    """What DEBA did for one architecture, over its data sets and seeds."""

    model: str
    family: str
    num_rows: int
    headroom: float
    """Of the throughput curve, mean over data sets."""
    stability_score: MeanStd
    time_saved_pct: MeanStd
    """By the curve."""
    accuracy_delta_pp: MeanStd
    benefits: int
    """Rows that benefited."""


def compare_arms(rows: Sequence[CorpusRow], limits: Limits = DEFAULT_LIMITS) -> tuple[Arm, ...]:
    """Each schedule of the corpus over all its rows with a quiet machine's curve whose fixed run
    finished and learned, and DEBA beside it; that a schedule diverged is an outcome, and counts."""
    done = in_order(
        r for r in rows if r.fixed_status == "finished" and learned(r) and not r.curve_busy
    )
    deba = {r.fixed_run_id: r for r in usable(done)}
    names = sorted({r.arm for r in done}, key=lambda n: (n != "deba", n))
    return tuple(_arm(n, [r for r in done if r.arm == n], deba, limits) for n in names)


def _arm(
    name: str, rows: Sequence[CorpusRow], deba: Mapping[str, CorpusRow], limits: Limits
) -> Arm:
    drawn = bootstrap.draw([r.family for r in rows])
    saved = np.array([r.curve_saved_pct for r in rows])
    delta = np.array([r.accuracy_delta_pp for r in rows])
    benefit = np.array([r.benefit_class(limits) == "benefits" for r in rows], float)
    beside = [deba.get(r.fixed_run_id) for r in rows]
    # On the arm's curve: the two may have been measured on two machines.
    deba_saved = [
        np.nan if d is None else d.saved_pct_on(r.curve) for r, d in zip(rows, beside, strict=True)
    ]
    deba_delta = np.array([np.nan if d is None else d.accuracy_delta_pp for d in beside])
    alike = [
        d is not None and d.adaptive_batch_sizes == r.adaptive_batch_sizes
        for r, d in zip(rows, beside, strict=True)
    ]
    paired = name != "deba"
    return Arm(
        name=name,
        num_rows=len(rows),
        time_saved_pct=bootstrap.mean_score(saved, drawn),
        accuracy_delta_pp=bootstrap.mean_score(delta, drawn),
        benefits=bootstrap.mean_score(benefit, drawn),
        deba_saves_more_pct=bootstrap.mean_score(deba_saved - saved, drawn) if paired else None,
        deba_more_accurate_pp=bootstrap.mean_score(deba_delta - delta, drawn) if paired else None,
        same_batches=sum(alike) if paired else None,
    )


def model_outcomes(
    rows: Sequence[CorpusRow], limits: Limits = DEFAULT_LIMITS
) -> tuple[ModelOutcome, ...]:
    """One entry an architecture, the most time saved first. `rows` are of one schedule."""
    groups: dict[str, list[CorpusRow]] = {}
    for row in rows:
        groups.setdefault(row.model, []).append(row)
    told = [_model(group, limits) for group in groups.values()]
    return tuple(sorted(told, key=lambda m: (-m.time_saved_pct.mean, m.model)))


def _model(rows: Sequence[CorpusRow], limits: Limits) -> ModelOutcome:
    return ModelOutcome(
        model=rows[0].model,
        family=rows[0].family,
        num_rows=len(rows),
        headroom=float(np.mean([_headroom(r) for r in rows])),
        stability_score=metrics.mean_std([r.window.stability_score for r in rows]),
        time_saved_pct=metrics.mean_std([r.curve_saved_pct for r in rows]),
        accuracy_delta_pp=metrics.mean_std([r.accuracy_delta_pp for r in rows]),
        benefits=sum(r.benefit_class(limits) == "benefits" for r in rows),
    )


def rank_by_headroom(rows: Sequence[CorpusRow]) -> Score | None:
    """Spearman's correlation of headroom with time saved over architectures, drawn by family.

    None for fewer than three architectures.
    """
    models = model_outcomes(rows)
    if len(models) < 3:
        return None
    drawn = bootstrap.draw([m.family for m in models])
    headroom = np.array([m.headroom for m in models])
    saved = np.array([m.time_saved_pct.mean for m in models])
    draws = [np.repeat(np.arange(len(models)), weight.astype(int)) for weight in drawn.weights]
    told = [bootstrap.spearman(headroom[at], saved[at]) for at in draws]
    return bootstrap.of_draws(np.array(told), drawn.families)


def _headroom(row: CorpusRow) -> float:
    return metrics.headroom(row.curve, row.fixed_batch_sizes[0])

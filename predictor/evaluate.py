"""How far the predictor can be trusted: candidates on architecture families they never saw."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from predictor import bootstrap
from predictor.bootstrap import Draws
from predictor.candidates import BASELINES, CANDIDATES
from predictor.corpus import CORPUS_READING, CorpusRow
from predictor.decide import ADAPT_PROBABILITY
from predictor.examples import (
    Example,
    families,
    finished,
    is_deba,
    learned,
    make_examples,
    usable,
)
from predictor.held_out import Refits, nested_intervals
from predictor.horizon_scores import score_horizons
from predictor.learning import LearningPoint, learning_curve
from predictor.other_seeds import SeedScores, score_other_seeds
from predictor.outcomes import Arm, ModelOutcome, compare_arms, model_outcomes, rank_by_headroom
from predictor.physical import CHOSEN, INTERVAL_LEVEL, Estimates, Intervals
from predictor.recipe import FEWEST_FAMILIES, Recipe, recipe_of, rows_like
from predictor.scores import HeldOutCase, HorizonScores, Score
from predictor.skill import (
    benefit_shares,
    benefits_of,
    is_answered,
    outcomes_of,
    squared_errors,
)
from predictor.stability_scores import ScoreFormula, compare_formulas
from predictor.variance import (
    HarmShares,
    SeedFloor,
    Shares,
    harm_shares,
    have_other_seed,
    seed_floor,
    variance_shares,
)
from stability_probe.errors import MissingError, UsageError
from stability_probe.limits import DEFAULT_LIMITS, Limits
from stability_probe.progress import Progress, Quiet

T = TypeVar("T", Estimates, Intervals)

SELECTED = "selected"
"""Name of the procedure that picks a candidate by its score on the other families."""
CONTRASTS = (
    ("stability to headroom", "headroom + stability", "headroom"),
    ("all features to headroom", "logistic", "headroom"),
    ("the curve to the mean", "curve", "majority"),
    ("rehearsal to paths", "rehearsal", "curve"),
    ("learned harm to its rate", "curve + harm", "curve"),
)
_CLIP = 0.01  # a probability of 0 or 1 would make one miss infinite


@dataclass(frozen=True, kw_only=True)
class CandidateScores:
    """One candidate on families held out; None where a score is undefined."""

    name: str
    brier: Score | None
    """Mean squared error of the probability of benefit, over the last epochs of each run."""
    log_loss: Score | None
    """Of probabilities clipped to 0.01 and 0.99."""
    balanced_accuracy: Score | None
    """Benefit or not, among the answered."""
    abstained: Score | None
    """Share of rows whose probability gives no verdict."""
    time_saved_mae: Score | None
    """Percentage points, by the curve."""
    time_saved_mae_measured: Score | None
    """The same beside measured seconds, on machines that others shared."""
    accuracy_delta_mae: Score | None
    time_saved_coverage: Score | None
    """Share of what was measured that lies in its interval."""
    time_saved_width: Score | None
    accuracy_delta_coverage: Score | None
    accuracy_delta_width: Score | None


@dataclass(frozen=True, kw_only=True)
class SkillContrast:
    """What one candidate adds to another: a score of the first minus that of the second."""

    name: str
    candidate: str
    against: str
    brier: Score | None
    time_saved_mae: Score | None
    accuracy_delta_mae: Score | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything that `probe evaluate` tells."""

    limits: Limits
    """What was taken for a benefit."""
    recipe: Recipe
    """Of the rows."""
    num_rows: int
    num_models: int
    num_families: int
    num_diverged: int
    """Rows whose adaptive run diverged; they count as harm."""
    num_stuck: int
    """Rows left out since their fixed run learned nothing."""
    class_counts: Mapping[str, int]
    """Benefit classes by the curve."""
    interval_level: float
    chosen: str
    selections: Mapping[str, str]
    """The candidate that the other families would pick, by the family held out."""
    scores: tuple[CandidateScores, ...]
    floor: SeedFloor
    brier_beside_floor: Score | None
    """Of the chosen candidate, over the rows that the floor is of."""
    other_seeds: tuple[SeedScores, ...]
    """What one seed of a model on the same data tells of the next, and what two do."""
    harm: HarmShares
    contrasts: tuple[SkillContrast, ...]
    arms: tuple[Arm, ...]
    models: tuple[ModelOutcome, ...]
    """What DEBA did for each architecture, the most time saved first."""
    rank_headroom: Score | None
    """Spearman's correlation, over architectures, of their headroom with the time saved."""
    shares: Mapping[str, Shares]
    """Where the variance of each outcome lies; empty for a corpus too small to tell."""
    stability_scores: tuple[ScoreFormula, ...]
    replay_correlation: float | None
    """Of measured time saved with each run's own batch sequence on the throughput curve."""
    replay_mae: float
    """Mean absolute error of the same, percentage points."""
    cases: tuple[HeldOutCase, ...]
    """Of the chosen candidate, one a row."""
    learning_curve: tuple[LearningPoint, ...]
    """Of the chosen candidate."""
    horizons: tuple[HorizonScores, ...]
    """Runs of several lengths, by the chosen candidate; none where the rows cannot be cut."""


def evaluate(
    rows: Sequence[CorpusRow],
    progress: Progress | None = None,
    limits: Limits = DEFAULT_LIMITS,
    epochs: int | None = None,
    lr_schedule: str | None = None,
) -> Evaluation:
    """Every score of every candidate, for runs of so many epochs or as long as the rows are.

    Of the commonest recipe among the rows, or among those of an `lr_schedule`. Nothing here chooses
    anything that is scored. Raises `MissingError` for fewer than three families, as two others are
    needed where one is held out; `UsageError` for runs no longer than their window.
    """
    if lr_schedule is not None:
        rows = [row for row in rows if row.lr_schedule == lr_schedule]
    rows = rows_like(rows, None, epochs)
    kept = usable(rows)
    if epochs is not None and any(epochs <= row.window_epochs for row in kept):
        raise UsageError(
            f"{epochs} epochs are no more than the window that predictions are made of; use "
            f"--epochs {max(row.window_epochs for row in kept) + 1} or more"
        )
    # What a schedule does to a model that it trains; that it diverged is in the examples.
    trained = [r for r in kept if finished(r)]
    examples = make_examples(kept, limits)
    if len(families(examples)) < FEWEST_FAMILIES:
        raise MissingError(
            f"the corpus holds fewer than {FEWEST_FAMILIES} families with runs of DEBA in its "
            f"reading {CORPUS_READING['reading']}"
            + (f" at a {lr_schedule} learning rate" if lr_schedule else "")
            + "; it cannot be scored"
        )
    drawn = bootstrap.draw([e.family for e in examples])
    measured = outcomes_of(examples, "measured_saved_pct")
    # Each run's own batch sizes on the curve: what is left between the two is the machine's.
    replayed = outcomes_of(examples, "time_saved_pct")
    refits = {n: Refits(c, examples) for n, c in (BASELINES | CANDIDATES).items()}
    progress = progress or Quiet()
    progress.start("candidates", len(refits))
    told, ends = {}, {}
    for name, r in refits.items():
        told[name], ends[name] = r.leave_one_out(), nested_intervals(r)
        progress.step(name)
    picks = {f: _pick(refits, f) for f in families(examples)}
    selected = _assemble(Estimates, told, picks, examples)
    selected_ends = _assemble(Intervals, ends, picks, examples)
    scores = [
        _scores(name, t, e, examples, drawn)
        for name, t, e in [
            *((n, told[n], ends[n]) for n in refits),
            (SELECTED, selected, selected_ends),
        ]
    ]
    return Evaluation(
        limits=limits,
        recipe=recipe_of(vars(kept[0])),
        num_rows=len(kept),
        num_models=len({r.model for r in kept}),
        num_families=len(picks),
        num_diverged=len(kept) - len(trained),
        num_stuck=sum(is_deba(r) and not learned(r) for r in rows),
        class_counts=dict(sorted(Counter(_class_name(e) for e in examples).items())),
        interval_level=INTERVAL_LEVEL,
        chosen=CHOSEN,
        selections=picks,
        scores=tuple(scores),
        floor=seed_floor(kept, drawn, limits),
        brier_beside_floor=bootstrap.mean_score(
            np.where(have_other_seed(kept), squared_errors(told[CHOSEN], examples), np.nan), drawn
        ),
        other_seeds=score_other_seeds(refits[CHOSEN]),
        harm=harm_shares(kept, drawn, limits),
        contrasts=tuple(_contrast(*c, told, examples, drawn) for c in CONTRASTS),
        arms=compare_arms(rows, limits),
        models=model_outcomes(trained, limits),
        rank_headroom=rank_by_headroom(trained),
        shares=variance_shares(trained),
        stability_scores=compare_formulas(trained),
        replay_correlation=_correlation(replayed, measured),
        replay_mae=float(np.abs(replayed - measured).mean()),
        cases=held_out_cases(kept, examples, told[CHOSEN], ends[CHOSEN]),
        learning_curve=learning_curve(refits[CHOSEN]),
        horizons=score_horizons(rows, refits[CHOSEN].candidate, limits),
    )


def held_out_cases(
    rows: Sequence[CorpusRow], examples: Sequence[Example], told: Estimates, ends: Intervals
) -> tuple[HeldOutCase, ...]:
    """What was told of each row beside what came of it; examples, estimates and intervals are the
    rows'."""
    return tuple(
        HeldOutCase(
            model=row.model,
            data=row.data,
            seed=row.seed,
            family=row.family,
            probability_of_benefit=float(told.probability_of_benefit[i]),
            benefits=example.benefits,
            benefit_share=example.benefit_share,
            time_saved_told_pct=float(told.time_saved_pct[i]),
            time_saved_interval_pct=_pair(ends.time_saved_pct[i]),
            time_saved_pct=example.time_saved_pct,
            measured_saved_pct=example.measured_saved_pct,
            accuracy_delta_told_pp=float(told.accuracy_delta_pp[i]),
            accuracy_delta_interval_pp=_pair(ends.accuracy_delta_pp[i]),
            accuracy_delta_pp=example.accuracy_delta_pp,
        )
        for i, (row, example) in enumerate(zip(rows, examples, strict=True))
    )


def _pair(ends: NDArray[np.float64]) -> tuple[float, float]:
    return float(ends[0]), float(ends[1])


def _pick(refits: Mapping[str, Refits], held_out: str) -> str:
    """The candidate with the best Brier score on the other families, each held out in turn."""

    def inner_brier(name: str) -> float:
        r = refits[name]
        others = r.family != held_out
        return float(squared_errors(r.leave_one_out(held_out), r.examples)[others].mean())

    return min(CANDIDATES, key=inner_brier)


def _assemble(
    kind: type[T], parts: Mapping[str, T], picks: Mapping[str, str], examples: Sequence[Example]
) -> T:
    """For each example the estimate, or the interval, of the candidate picked for its family."""
    names = [f.name for f in dataclasses.fields(kind)]
    chosen = [parts[picks[e.family]] for e in examples]
    return kind(
        **{n: np.array([getattr(part, n)[i] for i, part in enumerate(chosen)]) for n in names}
    )


def _scores(
    name: str,
    told: Estimates,
    ends: Intervals,
    examples: Sequence[Example],
    drawn: Draws,
) -> CandidateScores:
    """Estimates and intervals [num_examples] are made without each example's family."""
    truth = benefits_of(examples)
    p = told.probability_of_benefit
    share, clipped = benefit_shares(examples), np.clip(p, _CLIP, 1 - _CLIP)
    names = ("time_saved_pct", "measured_saved_pct", "accuracy_delta_pp")
    saved, measured, delta = (outcomes_of(examples, n) for n in names)
    means = {
        "brier": squared_errors(told, examples),
        "log_loss": -share * np.log(clipped) - (1 - share) * np.log(1 - clipped),
        "abstained": 1.0 - is_answered(told),
        "time_saved_mae": np.abs(told.time_saved_pct - saved),
        "time_saved_mae_measured": np.abs(told.time_saved_pct - measured),
        "accuracy_delta_mae": np.abs(told.accuracy_delta_pp - delta),
    }
    for outcome, values, interval in (
        ("time_saved", measured, ends.time_saved_pct),
        ("accuracy_delta", delta, ends.accuracy_delta_pp),
    ):
        low, high = interval.T
        means[f"{outcome}_coverage"] = ((low <= values) & (values <= high)).astype(float)
        means[f"{outcome}_width"] = np.where(np.isfinite(high - low), high - low, np.nan)
    return CandidateScores(
        name=name,
        balanced_accuracy=_balanced_accuracy(told, truth, drawn),
        **{key: bootstrap.mean_score(np.asarray(v, float), drawn) for key, v in means.items()},
    )


def _balanced_accuracy(told: Estimates, truth: NDArray[np.float64], drawn: Draws) -> Score | None:
    answered = is_answered(told)
    says = told.probability_of_benefit >= ADAPT_PROBABILITY

    def statistic(w: NDArray[np.float64]) -> NDArray[np.float64]:
        recalls = [
            (w @ (answered & (says == kind) & (truth == kind))) / (w @ (answered & (truth == kind)))
            for kind in (True, False)
        ]
        mean: NDArray[np.float64] = np.mean(recalls, axis=0)
        return mean

    return bootstrap.score(statistic, drawn)


def _contrast(
    name: str,
    candidate: str,
    against: str,
    told: Mapping[str, Estimates],
    examples: Sequence[Example],
    drawn: Draws,
) -> SkillContrast:
    saved, delta = (outcomes_of(examples, n) for n in ("time_saved_pct", "accuracy_delta_pp"))

    def losses(e: Estimates) -> tuple[NDArray[np.float64], ...]:
        return (
            squared_errors(e, examples),
            np.abs(e.time_saved_pct - saved),
            np.abs(e.accuracy_delta_pp - delta),
        )

    brier_loss, time_loss, accuracy_loss = (
        bootstrap.mean_score(mine - other, drawn)
        for mine, other in zip(losses(told[candidate]), losses(told[against]), strict=True)
    )
    return SkillContrast(
        name=name,
        candidate=candidate,
        against=against,
        brier=brier_loss,
        time_saved_mae=time_loss,
        accuracy_delta_mae=accuracy_loss,
    )


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Pearson's; None where one of the two is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _class_name(example: Example) -> str:
    return "benefits" if example.benefits else "harms" if example.harms else "neutral"

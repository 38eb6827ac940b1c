"""What a prediction rests on, for a report: rehearsals, nearest rows, scores held out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from predictor import report_figures as figures
from predictor.decide import ADAPT_PROBABILITY, KEEP_PROBABILITY
from predictor.grounds import FeatureRange, Grounds, Neighbour
from predictor.page import Fact, Part, Table
from predictor.recipe import words_of
from predictor.scores import HeldOut, Score
from stability_probe.words import percent, signed

_NEIGHBOURS = 6


def grounds_part(key: str, grounds: Grounds) -> Part:
    """The prediction taken apart, down to its product."""
    rehearsed, harm = grounds.rehearsed, grounds.fitted.harm_rate
    limits = grounds.fitted.limits
    table = Table(
        caption="Rehearsals, seed by seed",
        columns=("window", "largest batch", "time saved %", "save enough", "probability"),
        rows=tuple(
            (
                f"seed {r.seed}",
                ", ".join(str(max(path)) for path in r.paths),
                ", ".join(f"{s:.0f}" for s in r.saved_pct),
                f"{r.enough:.2f}",
                f"{(1 - harm) * r.enough:.2f}",
            )
            for r in rehearsed
        ),
        words=(0,),
    )
    told_of = "other seeds of its models" if grounds.own else "families it never saw"
    enough = sum(r.enough for r in rehearsed) / len(rehearsed)
    widths = grounds.fitted.time_saved_half_width, grounds.fitted.accuracy_delta_half_width
    return Part(
        title="How the number came about",
        text=(
            "DEBA is rehearsed on each seed's window: its norm and loss go on as power laws with "
            "the window's own scatter, and the rule answers with batch sizes. Each sequence is put "
            "on the throughput curve above; that gives the time it would save.",
            f"Share of the rehearsals that save at least {limits.min_time_saved_pct:g} %: "
            f"{enough:.2f}. Runs of the corpus, cut to as many epochs, that lost more than "
            f"{limits.max_accuracy_loss_pp:g} points of accuracy: {grounds.others_harm_rate:.2f}, "
            f"{_whose_harm(grounds)}. Probability of a benefit: {enough:.2f} × (1 − {harm:.2f}) = "
            f"{grounds.probability_of_benefit:.2f}. A verdict needs at most {KEEP_PROBABILITY} or "
            f"at least {ADAPT_PROBABILITY}, and a corpus that bears it out: by the skill that the "
            f"predictor has shown on {told_of}, or since nearly all rows agree.",
            "Intervals are conformal, from errors on architecture families held out: "
            f"± {widths[0]:.1f} points of time saved, ± {widths[1]:.1f} points of accuracy"
            f"{', the latter from errors on other seeds' if grounds.own else ''}.",
        ),
        figures=(figures.rehearsal_figure(key, grounds),),
        tables=(table,),
    )


def _whose_harm(grounds: Grounds) -> str:
    """How the rate of harm follows from that of the corpus, for a person."""
    own = grounds.own
    if own is None:
        return "taken as the same for every model"
    return (
        f"which counts as one seed beside the {own.num_seeds} of this very model, that lost it "
        f"in {own.harm_share:.2f} of their last epochs, so that the rate is "
        f"{grounds.fitted.harm_rate:.2f}"
    )


def neighbours_part(key: str, grounds: Grounds) -> Part:
    """Rows of the corpus that are most like the model, and where it lies among all of them."""
    near = grounds.neighbours[:_NEIGHBOURS]
    return Part(
        title="The nearest models that were measured",
        text=(
            "For comparison only: the prediction takes no average over them. It does refuse a "
            "verdict where a feature lies outside the corpus.",
        ),
        tables=(_neighbours_table(key, near), _features_table(key, grounds)),
    )


def held_out_part(key: str, held: HeldOut) -> Part:
    """How far predictions can be trusted, the same for every model."""
    trained = f"{words_of(held.recipe, 'optimizer')} and {words_of(held.recipe, 'lr_schedule')}"
    return Part(
        title="How far to trust a prediction",
        text=(
            f"The shipped corpus holds {held.num_rows} pairs of full runs of {held.num_models} "
            f"models in {held.num_families} families with {trained}. Each family was told by a "
            f"predictor that never saw it; numbers in brackets are 90 % intervals over families.",
        ),
        facts=(
            Fact(
                name="error of time saved",
                value=f"{held.time_saved_mae_measured.value:.1f} points",
                meaning=f"{_ends(held.time_saved_mae_measured, '{:.1f}')}; by the throughput curve "
                f"{held.time_saved_mae.value:.1f}",
            ),
            Fact(
                name=f"inside the {percent(held.interval_level)} interval",
                value=f"{percent(held.time_saved_coverage.value)} of times",
                meaning=_shares(held.time_saved_coverage),
            ),
            Fact(
                name="the same for accuracy",
                value=percent(held.accuracy_delta_coverage.value),
                meaning=_shares(held.accuracy_delta_coverage),
            ),
            Fact(
                name="who benefits (Brier score)",
                value=f"{held.brier.value:.3f}",
                meaning=f"{_ends(held.brier, '{:.3f}')}; of always telling the base rate "
                f"{held.brier_of_base_rate.value:.3f}; a benefit: {held.limits.words}",
            ),
        ),
        figures=(figures.told_figure(key, held),),
        tables=(_lengths_table(key, held),) if held.horizons else (),
    )


def _lengths_table(key: str, held: HeldOut) -> Table:
    """What came of the same rows in shorter runs."""
    return Table(
        caption="The same runs cut to so many epochs: what came of them, and what would have been "
        "said",
        columns=(
            *("epochs", "time saved %", "accuracy, points", "lost accuracy", "benefited"),
            *("adapt, right", "keep fixed, right"),
        ),
        rows=tuple(
            (
                str(h.epochs),
                _told(h.time_saved_pct, "{:.0f}"),
                _told(h.accuracy_delta_pp, "{:+.1f}"),
                "" if h.harms is None else percent(h.harms.value),
                "" if h.benefits is None else percent(h.benefits.value),
                f"{h.adapt_right} of {h.adapt}",
                f"{h.keep_fixed_right} of {h.keep_fixed}",
            )
            for h in held.horizons
        ),
        data=figures.download(
            f"{key}-lengths.csv",
            (
                *("epochs", "rows", "time_saved_pct", "accuracy_delta_pp", "harms", "benefits"),
                *("adapt", "adapt_right", "keep_fixed", "keep_fixed_right"),
            ),
            (
                (
                    *(h.epochs, h.num_rows, _value(h.time_saved_pct), _value(h.accuracy_delta_pp)),
                    *(_value(h.harms), _value(h.benefits)),
                    *(h.adapt, h.adapt_right, h.keep_fixed, h.keep_fixed_right),
                )
                for h in held.horizons
            ),
        ),
    )


def _told(score: Score | None, form: str) -> str:
    return "" if score is None else f"{form.format(score.value)} {_ends(score, form)}"


def _value(score: Score | None) -> float | None:
    return None if score is None else score.value


def _ends(score: Score, form: str) -> str:
    return f"({form.format(score.low)} to {form.format(score.high)})"


def _shares(score: Score) -> str:
    return f"({percent(score.low)} to {percent(score.high)})"


def _neighbours_table(key: str, near: Sequence[Neighbour]) -> Table:
    return Table(
        caption="Nearest first; distance 1 is the whole range of the corpus in every feature",
        columns=(
            *("model", "data", "distance", "differs most in", "headroom", "stability"),
            *("time saved %", "accuracy, points", "benefited"),
        ),
        rows=tuple(
            (
                n.model,
                n.data,
                f"{n.distance:.2f}",
                n.farthest,
                f"{n.headroom:.2f}×",
                f"{n.stability_score:.2f}",
                signed(n.time_saved_pct),
                signed(n.accuracy_delta_pp),
                f"{n.benefits} of {n.seeds} seeds",
            )
            for n in near
        ),
        words=(0, 1, 3),
        data=figures.download(
            f"{key}-nearest.csv",
            (
                *("model", "data", "distance", "differs_most_in", "headroom", "stability_score"),
                *("time_saved_pct", "time_saved_std", "accuracy_delta_pp", "accuracy_delta_std"),
                *("benefits", "seeds"),
            ),
            (
                (
                    *(n.model, n.data, n.distance, n.farthest, n.headroom, n.stability_score),
                    *(n.time_saved_pct.mean, n.time_saved_pct.std),
                    *(n.accuracy_delta_pp.mean, n.accuracy_delta_pp.std, n.benefits, n.seeds),
                )
                for n in near
            ),
        ),
    )


def _features_table(key: str, grounds: Grounds) -> Table:
    return Table(
        caption="This model beside the range of the corpus",
        columns=("feature", "here", "from", "to", ""),
        rows=tuple(
            (
                f.name,
                _number(f.value),
                _number(f.low),
                _number(f.high),
                _place(f),
            )
            for f in grounds.features
        ),
        words=(0, 4),
        data=figures.download(
            f"{key}-features.csv",
            ("feature", "here", "low", "high", "outside"),
            ((f.name, f.value, f.low, f.high, f.outside) for f in grounds.features),
        ),
    )


def _place(feature: FeatureRange) -> str:
    """Where a feature lies, if not among those of the corpus."""
    if feature.outside:
        return "OUTSIDE"
    beyond = feature.value < feature.low or feature.value > feature.high
    return "just outside, within the margin" if beyond else ""


def _number(value: float) -> str:
    if math.isnan(value):
        return "undefined"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

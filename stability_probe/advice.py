"""What a comparison says one should use."""

from __future__ import annotations

from dataclasses import dataclass

from stability_probe import metrics
from stability_probe.paired import EQUIVALENCE_LEVEL, mean_interval
from stability_probe.records import ArmOutcome, Contrast, Difference, Study

REPLAYED = "deba replayed"
"""The arm that takes DEBA's batch sequence without its signals."""
CHOICES = ("fixed", "decay", "schedule")
"""Roles of the arms that one may use; the others are there to compare with."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the runs say to use, and how sure they are."""

    kind: str
    """use (no loss of accuracy is ruled out), likely (one is not), keep, or unknown."""
    arm: ArmOutcome | None
    """None where it is to keep the batch, or where nothing was seen to save."""
    words: str
    """The sentence."""


def advise(study: Study) -> str:
    """What to use for this model, and what DEBA's signals added to its batch sequence."""
    parts = (choose(study).words, _unfinished(study), _most_accurate(study), _signals(study))
    return " ".join(part for part in parts if part)


def choose(study: Study) -> Choice:
    """The arm that saves most without costing accuracy; one that surely costs none goes first.

    Its saving must exceed the noise. That its accuracy does not differ beyond the noise proves
    nothing of it: few seeds see little. So what its interval does not rule out is said; and where
    it is picked out of many, it is not used by an interval that is right for one alone.
    """
    named = _finished(study)
    if not named:
        return Choice(
            kind="unknown", arm=None, words="Cannot say: no arm but the reference finished."
        )
    if goes_by_curve(study) and study.curve.busy:
        return Choice(
            kind="unknown",
            arm=None,
            words="Cannot say what saves time: the runs are of two machines, and the throughput "
            "curve was measured on a busy one.",
        )
    best = _saves_most(study, named)
    if study.detectable_sd is None:
        seen = f" Most seen: {best.name}, {_gain(study, best)}." if best else ""
        return Choice(
            kind="unknown",
            arm=best,
            words=f"Cannot say: one seed tells no difference from noise; use --seeds 0,1,2.{seen}",
        )
    told = [(arm, time_saved(study, arm)) for arm in named]
    beyond = [arm for arm, t in told if t and t.larger_than_noise and t.mean > 0]
    sure = _saves_most(
        study,
        [
            arm
            for arm in beyond
            if not metrics.loses_accuracy(_accuracy_ends(arm, len(beyond))[0], study.limits)
        ],
    )
    if sure is not None:
        return Choice(kind="use", arm=sure, words=f"Use {sure.name}: {_gain(study, sure)}.")
    likely = _saves_most(study, beyond)
    if likely is None:
        return Choice(
            kind="keep",
            arm=None,
            words=f"Keep the batch at {study.config['batch_size']}: nothing saved "
            f"{study.limits.min_time_saved_pct:g} % of the time beyond the noise at an accuracy "
            f"loss of at most {study.limits.max_accuracy_loss_pp:g} points.",
        )
    least = _accuracy_ends(likely)[0]
    doubt = f"{len(study.seeds)} seeds do not rule out that it loses {-least:.1f} points."
    if not metrics.loses_accuracy(least, study.limits):
        doubt = (
            f"Alone that would be enough; as the best of {len(beyond)} it may be luck, which more "
            "seeds can tell."
        )
    words = f"Most saved by {likely.name}: {_gain(study, likely)}. {doubt}"
    return Choice(kind="likely", arm=likely, words=words)


def goes_by_curve(study: Study) -> bool:
    """Whether some arm's seconds are of another machine than the reference's."""
    return any(arm.curve_saved_pct and not arm.time_saved_pct for arm in study.arms)


def time_saved(study: Study, outcome: ArmOutcome | Contrast) -> Difference | None:
    """As measured; by the curve, for all alike, where some seconds do not compare."""
    return outcome.curve_saved_pct if goes_by_curve(study) else outcome.time_saved_pct


def _finished(study: Study) -> list[ArmOutcome]:
    return [a for a in study.arms if a.role in CHOICES and a.accuracy_delta_pp is not None]


def _saves_most(study: Study, arms: list[ArmOutcome]) -> ArmOutcome | None:
    """Of those that save enough and lost no accuracy in the mean."""
    usable = [
        (saved.mean, arm)
        for arm in arms
        if (saved := time_saved(study, arm)) is not None
        and arm.accuracy_delta_pp is not None
        and saved.mean >= study.limits.min_time_saved_pct
        and not metrics.loses_accuracy(arm.accuracy_delta_pp.mean, study.limits)
    ]
    return max(usable, key=lambda pair: pair[0])[1] if usable else None


def _accuracy_ends(arm: ArmOutcome, at_once: int = 1) -> tuple[float, float]:
    """Of the change of accuracy; Bonferroni's, where the best of several arms is picked."""
    assert arm.accuracy_delta_pp is not None
    delta = arm.accuracy_delta_pp
    level = 1 - (1 - EQUIVALENCE_LEVEL) / at_once
    return mean_interval(delta.values, level, delta.resolution)


def _unfinished(study: Study) -> str:
    lost = [f"{arm.name} {arm.status}" for arm in study.arms if arm.accuracy is None]
    return f"Not in every seed finished: {', '.join(lost)}." if lost else ""


def _most_accurate(study: Study) -> str:
    arms = _finished(study)
    if study.detectable_sd is None or not arms:
        return ""
    better = [
        (arm.accuracy_delta_pp.mean, arm)
        for arm in arms
        if arm.accuracy_delta_pp is not None
        and arm.accuracy_delta_pp.larger_than_noise
        and arm.accuracy_delta_pp.mean > 0
    ]
    if not better:
        return "No arm was more accurate than the fixed batch by more than the noise."
    _, arm = max(better, key=lambda pair: pair[0])
    return f"Most accurate beyond the noise: {arm.name}, {_gain(study, arm)}."


def _gain(study: Study, arm: ArmOutcome) -> str:
    time, accuracy = time_saved(study, arm), arm.accuracy_delta_pp
    assert time is not None
    assert accuracy is not None
    less = "less" if time.mean >= 0 else "more"
    ends = ""
    if len(accuracy.values) > 1:
        low, high = _accuracy_ends(arm)
        ends = f" ({100 * EQUIVALENCE_LEVEL:.0f} % interval {low:+.1f} to {high:+.1f})"
    return (
        f"{abs(time.mean):.0f} % {less} time{_how(study)}{_told(time)}, "
        f"accuracy {accuracy.mean:+.1f} points{ends}"
    )


def _told(difference: Difference) -> str:
    if difference.p_value is None:
        return ""
    return " (beyond the noise)" if difference.larger_than_noise else " (within the noise)"


def _how(study: Study) -> str:
    return " by the curve" if goes_by_curve(study) else ""


def _signals(study: Study) -> str:
    asked = [c for c in study.contrasts if c.against in (REPLAYED, "timed")]
    if not asked or study.detectable_sd is None:
        return ""
    return " ".join(f"DEBA's signals gained {_gained(study, c)} over {c.name}." for c in asked)


def _gained(study: Study, contrast: Contrast) -> str:
    time = time_saved(study, contrast)
    accuracy = contrast.accuracy_delta_pp
    numbers = [f"time {time.mean:+.0f} %{_how(study)}"] if time else []
    numbers.append(f"accuracy {accuracy.mean:+.1f} points")
    beyond = [
        word if difference.mean > 0 else f"a loss of {word}"
        for word, difference in (("time", time), ("accuracy", accuracy))
        if difference is not None and difference.larger_than_noise
    ]
    return f"{' and '.join(beyond) or 'nothing beyond the noise'} ({', '.join(numbers)})"

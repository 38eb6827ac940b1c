"""What a comparison says one should use."""

from __future__ import annotations

from stability_probe import metrics
from stability_probe.records import ArmOutcome, Contrast, Difference, Study

REPLAYED = "deba replayed"
"""The arm that takes DEBA's batch sequence without its signals."""


def advise(study: Study) -> str:
    """What to use for this model, and what DEBA's signals added to its batch sequence."""
    return " ".join(
        part for part in (_choice(study), _most_accurate(study), _signals(study)) if part
    )


def goes_by_curve(study: Study) -> bool:
    """Whether some arm's seconds are of another machine than the reference's."""
    return any(arm.curve_saved_pct and not arm.time_saved_pct for arm in study.arms)


def time_saved(study: Study, outcome: ArmOutcome | Contrast) -> Difference | None:
    """As measured; by the curve, for all alike, where some seconds do not compare."""
    return outcome.curve_saved_pct if goes_by_curve(study) else outcome.time_saved_pct


def best_arm(study: Study) -> ArmOutcome | None:
    """The arm that saves most, of those that save enough beyond the noise and cost no accuracy."""
    usable = [
        (saved.mean, arm)
        for arm in study.arms
        if arm.role in ("fixed", "decay", "schedule")
        and (saved := time_saved(study, arm)) is not None
        and arm.accuracy_delta_pp is not None
        and saved.larger_than_noise
        and saved.mean >= metrics.MIN_TIME_SAVED_PCT
        and arm.accuracy_delta_pp.mean >= -metrics.MAX_ACCURACY_LOSS_PP
    ]
    return max(usable, key=lambda pair: pair[0])[1] if usable else None


def _choice(study: Study) -> str:
    arm = best_arm(study)
    if arm is None:
        return (
            f"Keep the batch at {study.config['batch_size']}: nothing saved "
            f"{metrics.MIN_TIME_SAVED_PCT:g} % of the time beyond the noise at an accuracy loss "
            f"of at most {metrics.MAX_ACCURACY_LOSS_PP:g} points."
        )
    return f"Use {arm.name}: {_gain(study, arm)}."


def _most_accurate(study: Study) -> str:
    better = [
        (arm.accuracy_delta_pp.mean, arm)
        for arm in study.arms
        if arm.role in ("fixed", "decay", "schedule")
        and arm.accuracy_delta_pp is not None
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
    return (
        f"{abs(time.mean):.0f} % {less} time{_how(study)} ({_told(time.larger_than_noise)}), "
        f"accuracy {accuracy.mean:+.1f} points ({_told(accuracy.larger_than_noise)})"
    )


def _told(larger: bool) -> str:
    return "beyond the noise" if larger else "within the noise"


def _how(study: Study) -> str:
    return " by the curve" if goes_by_curve(study) else ""


def _signals(study: Study) -> str:
    asked = [c for c in study.contrasts if c.against in (REPLAYED, "timed")]
    if not asked:
        return ""
    return " ".join(f"DEBA's signals gained {_gained(study, c)} over {c.name}." for c in asked)


def _gained(study: Study, contrast: Contrast) -> str:
    time = time_saved(study, contrast)
    assert time is not None
    numbers = (
        f"time {time.mean:+.0f} %{_how(study)}, "
        f"accuracy {contrast.accuracy_delta_pp.mean:+.1f} points"
    )
    beyond = [
        word if difference.mean > 0 else f"a loss of {word}"
        for word, difference in (
            ("time", time),
            ("accuracy", contrast.accuracy_delta_pp),
        )
        if difference.larger_than_noise
    ]
    return f"{' and '.join(beyond) or 'nothing beyond the noise'} ({numbers})"

"""Predicts, from a characterization, whether adaptive batch scheduling will pay off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stability_probe.limits import Limits
    from stability_probe.records import Characterization, Prediction

__all__ = ["predict"]


def predict(
    characterization: Characterization, corpus: Path | None = None, limits: Limits | None = None
) -> Prediction:
    """The verdict for a characterized model, from the shipped corpus or another file.

    `limits` say what counts as a benefit; by default those of `stability_probe.limits.Limits`.
    """
    from predictor.prediction import predict as predict_from_corpus
    from stability_probe.limits import DEFAULT_LIMITS

    return predict_from_corpus(characterization, corpus, limits or DEFAULT_LIMITS)

"""Predicts, from a characterization, whether adaptive batch scheduling will pay off.

    from predictor import predict
    print(predict(characterize("resnet18")).reason)

`predictor.validate.validate` puts a prediction to the test, `predictor.report.write_report` draws
it, `predictor.estimator.Predictor` is the scikit-learn estimator behind it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stability_probe.limits import Limits
    from stability_probe.records import Characterization, Prediction

__all__ = ["predict"]


def predict(
    characterization: Characterization,
    corpus: Path | str | None = None,
    limits: Limits | None = None,
) -> Prediction:
    """The verdict for a characterized model, from the shipped corpus or another file.

    `limits` say what counts as a benefit; by default those of `stability_probe.limits.Limits`.
    """
    from predictor.prediction import predict as predict_from_corpus
    from stability_probe.limits import DEFAULT_LIMITS

    path = None if corpus is None else Path(corpus)
    return predict_from_corpus(characterization, path, limits or DEFAULT_LIMITS)

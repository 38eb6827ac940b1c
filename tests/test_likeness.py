"""Whether a case is like those of a corpus."""

from __future__ import annotations

import math

import numpy as np
import pytest

from predictor.features import FEATURES
from predictor.likeness import FEATURE_MARGIN, CaseRange, case_range, unlike
from predictor.recipe import MARGIN
from tests.predictor_factories import make_case

KNOWN = CaseRange(
    feature_low=(0.0,) * len(FEATURES),
    feature_high=(2.0,) * len(FEATURES),
    updates_per_epoch=(20.0, 100.0),
)


def test_the_range_passes_over_undefined() -> None:
    nan = math.nan
    got = case_range(
        [
            make_case(features=features, updates_per_epoch=updates)
            for features, updates in (
                ((1.0, nan, nan), 9.0),
                ((3.0, 5.0, nan), 50.0),
                ((2.0, 4.0, nan), 30.0),
            )
        ]
    )
    np.testing.assert_array_equal(
        (got.feature_low, got.feature_high), [[1.0, 4.0, nan], [3.0, 5.0, nan]]
    )
    assert got.updates_per_epoch == (9.0, 50.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("log_headroom", "headroom"),
        ("stability_score", "stability"),
        ("log_grad_norm_variation", "norm variation"),
        ("log_loss_variation", "loss variation"),
        ("log_noise_scale", "noise scale"),
        ("log_num_params", "number of parameters"),
        ("log_num_macs", "number of multiply-adds"),
        ("log_macs_per_tensor", "work a parameter tensor"),
        ("log_norm_layers", "number of normalization layers"),
    ],
)
def test_each_feature_outside_the_corpus_is_named(name: str, words: str) -> None:
    """But for more headroom than any has, as a card may well have: time is read off its curve."""
    index = FEATURES.index(name)
    margin = FEATURE_MARGIN * 2.0

    def told(value: float) -> str | None:
        features = [1.0] * len(FEATURES)
        features[index] = value
        return unlike(make_case(features=tuple(features)), KNOWN)

    assert told(2.0 + margin) is None
    assert told(-margin) is None
    above = f"its {words} lies above everything in the corpus"
    assert told(2.0 + margin + 1e-6) == (None if name == "log_headroom" else above)
    assert told(-margin - 1e-6) == f"its {words} lies below everything in the corpus"
    assert told(math.nan) is None


@pytest.mark.parametrize("factor", [1.0, MARGIN])
def test_epochs_far_longer_or_shorter_than_the_corpus(factor: float) -> None:
    inside = (20 / factor, 100 * factor)
    for updates in inside:
        assert unlike(make_case(updates_per_epoch=updates), KNOWN) is None
    for updates in (20 / MARGIN - 0.1, 100 * MARGIN + 1):
        told = unlike(make_case(updates_per_epoch=updates), KNOWN)
        assert told is not None
        assert f"its number of updates an epoch is {updates:g}, and" in told
        assert "5 to 400" in told

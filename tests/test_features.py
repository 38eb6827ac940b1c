"""What the predictor may look at, and batch sequences replayed on a curve."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.features import (
    FEATURES,
    Case,
    family,
    make_cases,
    make_features,
    path_multiples,
    replayed_time_saved_pct,
)
from stability_probe import metrics
from stability_probe.records import ModelSize, Profile
from tests.factories import make_curve
from tests.predictor_factories import CURVE, make_characterization, make_profile, make_size

sizes = st.lists(st.integers(1, 2048), min_size=1, max_size=12).map(tuple)


def make_case(batch_size: int = 16, max_batch_size: int = 256, epochs: int = 4) -> Case:
    return Case(
        features=(0.0,) * len(FEATURES),
        profile=make_profile((1.0, 0.8)),
        curve=CURVE,
        batch_size=batch_size,
        max_batch_size=max_batch_size,
        epochs=epochs,
        updates_per_epoch=62.5,
    )


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("resnet50", "resnet"),
        ("resnet10t", "resnet"),
        ("test_resnet", "resnet"),
        ("torchvision:resnet18", "resnet"),
        ("RESNET18", "resnet"),
        ("resnext50_32x4d", "resnext"),
        ("densenet121", "densenet"),
        ("efficientnet_b0", "efficientnet"),
        ("test_efficientnet", "efficientnet"),
        ("mobilenetv3_small_050", "mobilenetv3"),
        ("mobilenetv3_large_100", "mobilenetv3"),
        ("mobilenetv2_035", "mobilenetv2"),
        ("mobilevit_xxs", "mobilevit"),
        ("mobilevitv2_050", "mobilevit"),
        ("levit_128s", "levit"),
        ("deit_tiny_patch16_224", "deit"),
        ("vit_base_patch16_224", "vit"),
        ("torchvision:vit_b_16", "vit"),
        ("test_vit2", "vit"),
        ("mixer_s32_224", "mixer"),
        ("gmixer_12_224", "mixer"),
        ("torchvision:shufflenet_v2_x0_5", "shufflenet"),
        ("torchvision:squeezenet1_1", "squeezenet"),
        ("torchvision:vgg11_bn", "vgg"),
        ("regnetx_002", "regnet"),
        ("torchvision:regnet_y_400mf", "regnet"),
        ("mnasnet_small", "mnasnet"),
        ("torchvision:mnasnet0_5", "mnasnet"),
        ("convnext_atto", "convnext"),
        ("abc_12", "abc"),
        ("my_pkg.nets:make_net", "make"),
        ("123", "123"),
    ],
)
def test_family_of_a_name(model: str, expected: str) -> None:
    assert family(model) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("torchvision:mobilenet_v2", "mobilenetv2_100"),
        ("torchvision:mobilenet_v3_small", "mobilenetv3_small_100"),
        ("tf_efficientnet_b0", "efficientnet_b0"),
        ("tf_mobilenetv3_small_100", "mobilenetv3_small_100"),
        ("wide_resnet50_2", "resnet50"),
    ],
)
def test_the_same_architecture_has_one_family(one: str, other: str) -> None:
    assert family(one) == family(other)


def test_features_by_hand() -> None:
    # norms 1 and 3: sample deviation √2, mean 2
    profile = make_profile((1.0, 3.0), losses=(2.0, 1.9), trace_sigma=80.0, grad_sq_norm=1.0)
    size = make_size(num_params=5000, num_macs=10**6, num_tensors=50, num_norm_layers=9)
    got = dict(zip(FEATURES, make_features(profile, CURVE, 32, size), strict=True))
    assert got == pytest.approx(
        {
            "log_headroom": math.log(250 / 150),
            "stability_score": 1 / (1 + math.sqrt(2) / 2),
            "log_grad_norm_variation": math.log(2.001),
            "log_loss_variation": math.log(0.051),
            "log_noise_scale": math.log(80 / 32 + 1e-3),
            "log_num_params": math.log(5000),
            "log_num_macs": math.log(10**6),
            "log_macs_per_tensor": math.log(20_000),
            "log_norm_layers": math.log(10),
            "batch_norm": 1.0,
        }
    )


def test_what_is_undefined_is_no_number_and_alone_so() -> None:
    def undefined(profile: Profile, size: ModelSize) -> list[str]:
        features = make_features(profile, CURVE, 16, size)
        return [name for name, value in zip(FEATURES, features, strict=True) if math.isnan(value)]

    quiet = make_profile((1.0, 0.8), trace_sigma=0.0, grad_sq_norm=1.0)
    assert undefined(make_profile((1.0, 0.8)), make_size()) == ["log_noise_scale"]
    assert undefined(quiet, make_size()) == []
    old = ["log_num_macs", "log_macs_per_tensor", "log_norm_layers"]
    assert undefined(quiet, make_size(num_macs=0, num_tensors=0)) == old


def test_a_characterization_from_before_sizes_were_recorded_still_has_its_parameters() -> None:
    (case, *_) = make_cases(make_characterization(size=None, num_params=77))
    assert case.features[FEATURES.index("log_num_params")] == math.log(77)
    assert math.isnan(case.features[FEATURES.index("log_num_macs")])
    assert case.features[FEATURES.index("batch_norm")] == 1.0


def test_one_case_a_seed() -> None:
    c = make_characterization(
        norms=((1.0, 0.9), (1.0, 0.5)),
        config={"batch_size": 32, "epochs": 30},
        max_batch_size=128,
        size=make_size(num_params=77),
    )
    cases = make_cases(c)
    profiles = [metrics.profile(w) for w in c.windows]
    size = make_size(num_params=77)
    assert [k.profile for k in cases] == profiles
    expected = [make_features(p, CURVE, 32, size) for p in profiles]
    np.testing.assert_array_equal([k.features for k in cases], expected)
    assert len({k.features for k in cases}) == 2
    assert {(k.batch_size, k.max_batch_size, k.epochs) for k in cases} == {(32, 128, 30)}
    assert {k.updates_per_epoch for k in cases} == {1000 / 32}
    assert all(k.curve is CURVE for k in cases)


def test_multiples_are_held_at_the_end_and_cut() -> None:
    got = path_multiples(((16, 32), (8, 8, 12, 24, 4)), 4)
    np.testing.assert_array_equal(got, [[1, 2, 2, 2], [1, 1, 1.5, 3]])


def naive_speed(batch_size: float) -> float:
    """Linear in log batch between the points of `CURVE`, flat beyond its ends."""
    points = [(p.batch_size, p.samples_per_s) for p in CURVE.points]
    if batch_size <= points[0][0]:
        return points[0][1]
    for (low, slow), (high, fast) in itertools.pairwise(points):
        if batch_size <= high:
            share = math.log(batch_size / low) / math.log(high / low)
            return slow + share * (fast - slow)
    return points[-1][1]


@given(
    st.lists(sizes, min_size=1, max_size=4).map(tuple),
    st.sampled_from([16, 24, 64, 200]),
    st.sampled_from([16, 64, 100, 256, 4096]),
    st.integers(1, 15),
)
def test_replay_is_epoch_by_epoch(
    paths: tuple[tuple[int, ...], ...], batch_size: int, bound: int, epochs: int
) -> None:
    expected = []
    for path in paths:
        adaptive = fixed = 0.0
        for epoch in range(epochs):
            known = path[epoch] if epoch < len(path) else path[-1]
            size = batch_size * known / path[0]
            if size > max(bound, batch_size):
                size = max(bound, batch_size)
            adaptive += 1000 / naive_speed(size)
            fixed += 1000 / naive_speed(batch_size)
        expected.append(100 * (1 - adaptive / fixed))
    got = replayed_time_saved_pct(paths, make_case(batch_size, bound, epochs))
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


@given(st.lists(sizes, min_size=1, max_size=4).map(tuple), st.sampled_from([16, 32, 100]))
def test_replay_never_goes_above_the_bound(paths: tuple[tuple[int, ...], ...], bound: int) -> None:
    """A path far beyond the bound saves what a path at the bound saves, and no path more."""
    case = make_case(max_batch_size=bound)
    at_bound = 100 * (1 - 100.0 / naive_speed(bound))
    assert replayed_time_saved_pct(paths, case).max() <= at_bound + 1e-9
    (far,) = replayed_time_saved_pct(((16, 1600, 1600, 1600),), case)
    assert far == pytest.approx(0.75 * at_bound)


@pytest.mark.parametrize("size", [1, 16, 500])
def test_a_path_that_never_changes_saves_nothing(size: int) -> None:
    for case in (make_case(24), make_case(64, max_batch_size=16), make_case(epochs=9)):
        assert replayed_time_saved_pct(((size,) * 5,), case) == pytest.approx([0.0], abs=1e-12)


def test_replay_on_a_flat_curve_saves_nothing() -> None:
    flat = Case(
        features=(),
        profile=make_profile((1.0, 0.8)),
        curve=make_curve((16, 64), (100.0, 100.0)),
        batch_size=16,
        max_batch_size=64,
        epochs=5,
        updates_per_epoch=62.5,
    )
    assert replayed_time_saved_pct(((16, 64),), flat) == pytest.approx([0.0], abs=1e-12)


@pytest.mark.parametrize(
    ("normalization", "expected"), [("batch", 1.0), ("mixed", 1.0), ("layer", 0.0), ("none", 0.0)]
)
def test_batch_norm_is_seen_beside_others(normalization: str, expected: float) -> None:
    size = make_size(normalization=normalization)
    features = make_features(make_profile((1.0, 0.8)), CURVE, 16, size)
    assert features[FEATURES.index("batch_norm")] == expected

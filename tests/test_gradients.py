"""Gradient statistics against the flattened gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stability_probe import gradients, metrics


def test_norm_and_variance_are_those_of_the_flat_gradient() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    model(torch.randn(4, 3, 8, 8)).square().mean().backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).double()
    sq_norm, total = gradients.norm_and_total(gradients.gradients(model.parameters())).tolist()
    components = gradients.num_components(model.parameters())
    assert components == flat.numel()
    torch.testing.assert_close(sq_norm**0.5, flat.norm().item(), rtol=1e-5, atol=0)
    variance = metrics.component_variance(sq_norm, total, components)
    torch.testing.assert_close(variance, flat.var(unbiased=False).item(), rtol=1e-5, atol=0)


def test_frozen_and_unused_parameters_do_not_count() -> None:
    used, frozen, unused = nn.Linear(3, 1), nn.Linear(3, 1), nn.Linear(3, 1)
    frozen.requires_grad_(False)
    (used(torch.ones(1, 3)) + frozen(torch.ones(1, 3))).sum().backward()
    everything = [*used.parameters(), *frozen.parameters(), *unused.parameters()]
    assert gradients.num_components(everything) == 4
    # Gradient of a sum: ones for the three weights and the bias.
    assert gradients.norm_and_total(gradients.gradients(everything)).tolist() == [4.0, 4.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    """Against numpy in float64. In its own float16 the norm of these would be infinite."""
    generator = torch.Generator().manual_seed(0)
    grads = [(300 * torch.randn(n, generator=generator)).to(dtype) for n in (70_000, 1, 333)]
    flat = np.concatenate([g.double().numpy() for g in grads])
    sq_norm, total = gradients.norm_and_total(grads).tolist()
    assert sq_norm == pytest.approx(float(np.dot(flat, flat)), rel=1e-5)
    assert total == pytest.approx(float(flat.sum()), rel=1e-3)
    variance = metrics.component_variance(sq_norm, total, len(flat))
    assert variance == pytest.approx(float(flat.var()), rel=1e-5)


def test_kinds_of_precision_beside_each_other() -> None:
    grads = [torch.full((3,), 2.0), torch.full((4,), 3.0).half(), torch.full((5,), 1.0).bfloat16()]
    assert gradients.norm_and_total(grads).tolist() == [12.0 + 36.0 + 5.0, 6.0 + 12.0 + 5.0]


class Odd(nn.Module):
    """A complex parameter, one without a dimension, a shared one, a frozen one, an unused one."""

    def __init__(self) -> None:
        super().__init__()
        self.complex = nn.Parameter(torch.randn(4, dtype=torch.complex64))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.unused = nn.Parameter(torch.randn(9))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        turned = torch.fft.fft(x) * self.complex
        return self.scale * self.second(self.first(turned.real + turned.imag)) + self.frozen


def odd_gradient(
    x: torch.Tensor, scale: float = 1.0, precision: torch.dtype = torch.float32
) -> Odd:
    torch.manual_seed(0)
    model = Odd()
    if precision is torch.float64:
        for p in model.parameters():
            p.data = p.data.to(torch.complex128 if p.is_complex() else torch.float64)
    (scale * model(x.to(precision)).square().mean()).backward()
    return model


def test_odd_parameters_against_float64() -> None:
    """Real and imaginary parts are two components, a shared tensor counts once."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    model, exact = odd_gradient(x), odd_gradient(x, precision=torch.float64)
    parts = [p.grad for p in exact.parameters() if p.grad is not None]
    flat = np.concatenate(
        [(torch.view_as_real(g) if g.is_complex() else g).detach().flatten().numpy() for g in parts]
    )
    assert gradients.num_components(model.parameters()) == len(flat) == 8 + 1 + 16 + 4 + 4
    sq_norm, total = gradients.norm_and_total(gradients.gradients(model.parameters())).tolist()
    assert sq_norm == pytest.approx(float(np.dot(flat, flat)), rel=1e-5)
    assert total == pytest.approx(float(flat.sum()), rel=1e-5)


def test_gradients_taken_on_the_way_are_those_of_whole_backward_passes() -> None:
    """Complex, shared, frozen and unused parameters; afterwards nothing is taken any more."""
    generator = torch.Generator().manual_seed(2)
    parts = [torch.randn(6, 4, generator=generator) for _ in range(3)]
    whole = [gradients.gradients(odd_gradient(x).parameters()) for x in parts]
    model = odd_gradient(parts[0])
    model.zero_grad()
    with gradients.taken(model.parameters()) as micro_batches:
        for x in parts:
            model(x).square().mean().backward()
            assert all(p.grad is None for p in model.parameters())
            micro_batches.next()
    expected = [float(gradients.squared_norm(grads)) for grads in whole]
    assert [float(n) for n in micro_batches.squared_norms] == pytest.approx(expected)
    mean = [torch.stack(same).mean(dim=0) for same in zip(*whole, strict=True)]
    big = micro_batches.mean_squared_norm().item()
    assert big == pytest.approx(float(gradients.squared_norm(mean)))
    model(parts[0]).square().mean().backward()
    assert len(gradients.gradients(model.parameters())) == len(whole[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_gradients_are_added_up_in_float32(dtype: torch.dtype) -> None:
    """In float16 the sum of these would be infinite, in bfloat16 miss the small ones."""
    weight = nn.Parameter(torch.zeros(2, dtype=dtype))
    parts = [torch.tensor(p, dtype=dtype) for p in ([60000.0, 1.0], [60000.0, 256.0], [0.0, 1.0])]
    with gradients.taken([weight]) as micro_batches:
        for part in parts:
            (weight * part).sum().backward()
            micro_batches.next()
    expected = float((torch.stack(parts).double().mean(dim=0) ** 2).sum())
    assert micro_batches.mean_squared_norm().item() == pytest.approx(expected, rel=1e-6)


def test_gradients_in_float64_are_added_up_in_float64() -> None:
    """All but a part in 10¹⁰ of them cancels, which float32 would lose."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    with gradients.taken([weight]) as micro_batches:
        for slope in (1.0 + 1e-10, -1.0):
            (weight * slope).sum().backward()
            micro_batches.next()
    expected = pytest.approx((0.5e-10) ** 2, rel=1e-4, abs=0)
    assert micro_batches.mean_squared_norm().item() == expected


@given(st.permutations(range(6)), st.permutations(range(6)), st.floats(1e-3, 1e3))
def test_order_changes_nothing_and_scale_what_it_must(
    samples: list[int], order: list[int], scale: float
) -> None:
    """‖g‖² grows with the square of the loss's scale, Σg with the scale."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))

    def numbers(model: nn.Module) -> list[float]:
        parameters = list(model.parameters())
        assert len(parameters) == len(order) + 1
        turned = [parameters[i] for i in [*order, 6]]
        return [float(v) for v in gradients.norm_and_total(gradients.gradients(turned))]

    sq_norm, total = numbers(odd_gradient(x))
    assert numbers(odd_gradient(x[samples])) == pytest.approx([sq_norm, total], rel=1e-4)
    scaled = numbers(odd_gradient(x, scale))
    assert scaled == pytest.approx([sq_norm * scale**2, total * scale], rel=1e-4)


@pytest.mark.parametrize(
    ("steps", "stride"), [(1, 1), (127, 1), (128, 1), (255, 1), (256, 2), (300, 2), (1280, 10)]
)
def test_at_least_so_many_steps_are_measured_where_there_are_so_many(
    steps: int, stride: int
) -> None:
    assert gradients.measured_stride(steps) == stride
    measured = len(range(0, steps, stride))
    assert min(steps, gradients.MEASURED_STEPS_PER_EPOCH) <= measured

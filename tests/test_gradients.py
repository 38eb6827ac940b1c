"""Gradient statistics against the flattened gradient."""

from __future__ import annotations

import torch
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


def test_bfloat16_gradients_are_summed_in_float32() -> None:
    grad = torch.full((4096,), 1.0, dtype=torch.bfloat16)
    sq_norm, total = gradients.norm_and_total([grad, grad]).tolist()
    assert total == 8192.0
    assert abs(sq_norm - 8192.0) / 8192.0 < 0.01

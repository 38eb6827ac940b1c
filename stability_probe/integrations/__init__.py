"""Adaptive batches in other people's training code: plain PyTorch, Lightning, Hugging Face."""

from stability_probe.integrations.adaptive_batch import AdaptiveBatch
from stability_probe.integrations.gradient_monitor import GradientMonitor
from stability_probe.integrations.sampler import AdaptiveBatchSampler

__all__ = ["AdaptiveBatch", "AdaptiveBatchSampler", "GradientMonitor"]

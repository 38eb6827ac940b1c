"""An adaptive batch in a timm recipe: model, optimizer, warm-up and cosine, EMA, clipping."""

import timm
import torch
from sklearn.datasets import load_digits
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stability_probe.integrations import AdaptiveBatch, AdaptiveBatchSampler, GradientMonitor

EPOCHS = 8

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images[:480] / 16, dtype=torch.float32)[:, None]
train = TensorDataset(F.interpolate(images, size=32), torch.tensor(digits.target[:480]))

model = timm.create_model("test_efficientnet", num_classes=10, in_chans=1)
ema = ModelEmaV3(model, decay=0.99)
optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
# In epochs, timm's default: a schedule in updates would be stretched when the batch grows.
schedule, _ = create_scheduler_v2(
    optimizer, sched="cosine", num_epochs=EPOCHS, warmup_epochs=1, warmup_lr=1e-4
)

sampler = AdaptiveBatchSampler(train, batch_size=16)
loader = DataLoader(train, batch_sampler=sampler)
monitor = GradientMonitor(model, optimizer)
adaptive = AdaptiveBatch(
    monitor, sampler, "deba", epochs=EPOCHS, window_epochs=2, max_batch_size=96, lr_rule="sqrt"
)

for epoch in range(EPOCHS):
    model.train()
    for inputs, targets in loader:
        loss = F.cross_entropy(model(inputs), targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        monitor.measure()  # the whole gradient, before clipping
        dispatch_clip_grad(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model)
        monitor.add_loss(loss, len(targets))
    schedule.step(epoch + 1)
    record = adaptive.step()
    print(
        f"epoch {record.epoch}: loss {record.loss:.3f}, rate {record.lr:.5f}, "
        f"batch {record.batch_size} -> {record.next_batch_size}"
    )

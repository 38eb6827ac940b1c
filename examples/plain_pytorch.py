"""An adaptive batch in a plain PyTorch loop: digits, a small network, a decaying rate."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stability_probe.integrations import AdaptiveBatch, AdaptiveBatchSampler, GradientMonitor

EPOCHS = 20

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
train, test = TensorDataset(x[:1400], y[:1400]), (x[1400:], y[1400:])

model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)

sampler = AdaptiveBatchSampler(train, batch_size=16)
loader = DataLoader(train, batch_sampler=sampler)
monitor = GradientMonitor(model, optimizer)
adaptive = AdaptiveBatch(monitor, sampler, "deba", epochs=EPOCHS, lr_rule="linear")

for _ in range(EPOCHS):
    for inputs, targets in loader:
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        monitor.measure()  # before clipping; without clipping it can be left out
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        monitor.add_loss(loss, len(targets))
    schedule.step()
    record = adaptive.step()
    print(
        f"epoch {record.epoch}: loss {record.loss:.4f}, batch {record.batch_size}"
        f" -> {record.next_batch_size} ({record.action})"
    )

accuracy = (model(test[0]).argmax(dim=1) == test[1]).float().mean()
print(f"test accuracy {100 * accuracy:.1f} %")
# For your checkpoint, beside model and optimizer: plain numbers, safe with weights_only=True.
torch.save({"model": model.state_dict(), "adaptive": adaptive.state_dict()}, "checkpoint.pt")
adaptive.load_state_dict(torch.load("checkpoint.pt", weights_only=True)["adaptive"])

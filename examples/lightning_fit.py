"""An adaptive batch in Lightning: one callback, and its sampler in the loader."""

import torch
from lightning.pytorch import LightningModule, Trainer
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from stability_probe.integrations import AdaptiveBatchSampler
from stability_probe.integrations.lightning import AdaptiveBatchCallback

EPOCHS = 16


class Classifier(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, index):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        # interval="epoch" is Lightning's default: a schedule in steps would be stretched.
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)]

    def on_train_epoch_end(self):
        record = callback.adaptive.record
        print(f"epoch {record.epoch}: batch {record.batch_size} -> {record.next_batch_size}")


torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
train = TensorDataset(torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels))

sampler = AdaptiveBatchSampler(train, batch_size=16)
callback = AdaptiveBatchCallback(sampler, "deba", max_batch_size=256, lr_rule="linear")
trainer = Trainer(
    max_epochs=EPOCHS,
    callbacks=[callback],
    reload_dataloaders_every_n_epochs=1,  # the number of batches changes
    use_distributed_sampler=False,  # the sampler shares each batch among the processes itself
    gradient_clip_val=5.0,  # the gradient is measured before
    accelerator="cpu",
    devices=1,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
)
trainer.fit(Classifier(), DataLoader(train, batch_sampler=sampler))

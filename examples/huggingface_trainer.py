"""An adaptive batch in Hugging Face's Trainer: a tiny vision transformer on digits."""

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from stability_probe.integrations.huggingface import AdaptiveBatchCallback

digits = load_digits()
train = [
    {"pixel_values": torch.tensor(image / 16, dtype=torch.float32)[None], "labels": int(label)}
    for image, label in zip(digits.images[:800], digits.target[:800], strict=True)
]
config = ViTConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=8,
    patch_size=2,
    num_channels=1,
    num_labels=10,
)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=10,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="epoch",
        disable_tqdm=True,
    )
    trainer = Trainer(ViTForImageClassification(config), arguments, train_dataset=train)
    callback = AdaptiveBatchCallback(trainer, "deba", max_batch_size=128, lr_rule="sqrt")

    class Tell(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            r = callback.adaptive.record
            print(f"epoch {r.epoch}: batch {r.batch_size} -> {r.next_batch_size}, {r.reason}")
            print(f"  {state.global_step} of {state.max_steps} steps")

    trainer.add_callback(Tell())
    trainer.train()

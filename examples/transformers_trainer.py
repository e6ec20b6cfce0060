"""The regularizer in Hugging Face's Trainer: one callback, on the four shapes; nothing is downloaded.

pip install "skreg[transformers]"; python examples/transformers_trainer.py
"""

import tempfile

import torch
from transformers import Trainer, TrainingArguments

from skreg.data import load
from skreg.integrations.transformers import SmoothKernelCallback


class Shapes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.convolutions = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 5, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3), torch.nn.ReLU()
        )
        self.head = torch.nn.Linear(1600, 4)

    def forward(self, pixel_values, labels):
        logits = self.head(self.convolutions(pixel_values).flatten(1))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def main():
    torch.manual_seed(0)
    images, labels = load("four-shapes", "train", limit=512)
    data = [{"pixel_values": image / 255, "labels": label} for image, label in zip(images, labels, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=Shapes(),
            args=TrainingArguments(
                output_dir=folder,
                num_train_epochs=4,
                per_device_train_batch_size=32,
                learning_rate=2e-3,
                logging_steps=16,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=data,
            callbacks=[SmoothKernelCallback(strength=1e-2)],
        )
        trainer.train()
    roughness = [entry["smooth_kernels/roughness"] for entry in trainer.state.log_history]
    print(f"mean roughness: {roughness[0]:.3f} -> {roughness[-1]:.3f}")


if __name__ == "__main__":
    main()

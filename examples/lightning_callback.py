"""The regularizer in Lightning: one callback, on the four shapes.

pip install "skreg[lightning]"; python examples/lightning_callback.py
"""

import lightning
import torch
from torch.utils.data import DataLoader, TensorDataset

from skreg.data import load
from skreg.integrations.lightning import SmoothKernelCallback


class Shapes(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 5, stride=2),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 16, 3),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(1600, 4),
        )

    def training_step(self, batch, batch_index):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.model(images), labels)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main():
    lightning.seed_everything(0, verbose=False)
    images, labels = load("four-shapes", "train", limit=512)
    data_loader = DataLoader(TensorDataset(images / 255, labels), batch_size=32, shuffle=True)
    smooth_kernels = SmoothKernelCallback(strength=1e-2)
    roughness = []

    class Recorder(lightning.Callback):  # what Lightning's loggers get
        def on_train_epoch_end(self, trainer, module):
            roughness.append(trainer.callback_metrics["smooth_kernels/roughness"].item())

    trainer = lightning.Trainer(
        max_epochs=4,
        accelerator="cpu",
        callbacks=[smooth_kernels, Recorder()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Shapes(), data_loader)
    print(f"mean roughness: {roughness[0]:.3f} -> {roughness[-1]:.3f}")


if __name__ == "__main__":
    main()

"""The regularizer with a timm model and a timm optimizer, on the four shapes; no weights are downloaded.

pip install "skreg[timm]"; python examples/timm_model.py
"""

import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.utils.data import DataLoader, TensorDataset

import skreg
from skreg.data import load


def main():
    torch.manual_seed(0)
    images, labels = load("four-shapes", "train", limit=256)
    data_loader = DataLoader(TensorDataset(images / 255, labels), batch_size=32, shuffle=True)
    model = timm.create_model(
        "resnet18", pretrained=False, num_classes=4, in_chans=1, channels=(8, 16, 16, 16), stem_width=8
    )
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=2e-3, weight_decay=0.05)
    scheduler = CosineLRScheduler(optimizer, t_initial=4)

    reg = skreg.SmoothKernelRegularizer(model, strength=1e-2)  # 1x1 convolutions are left out
    reg.attach(optimizer)

    before = [layer.roughness for layer in reg.statistics()]
    for epoch in range(4):
        for batch, target in data_loader:
            optimizer.zero_grad()
            loss = criterion(model(batch), target)
            loss.backward()
            optimizer.step()
        scheduler.step(epoch + 1)
        print(f"epoch {epoch}: loss {loss.item():.3f}")
    after = [layer.roughness for layer in reg.statistics()]
    print(f"mean roughness: {sum(before) / len(before):.3f} -> {sum(after) / len(after):.3f}")


if __name__ == "__main__":
    main()

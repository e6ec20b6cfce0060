"""A plain training loop in the style of torchvision's references, on the four shapes; the README's lines are marked.

    python examples/plain_loop.py [--amp]

With --amp the forward pass runs in bfloat16 (float16 and a GradScaler on a GPU).
"""

import argparse

import torch
from torch.utils.data import DataLoader, TensorDataset

import skreg
from skreg.data import load


def train_one_epoch(model, criterion, optimizer, data_loader, device, epoch, reg, scaler, amp):
    model.train()
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    for images, labels in data_loader:
        images, labels = images.to(device), labels.to(device)
        with torch.autocast(device.type, dtype, enabled=amp):
            loss = criterion(model(images), labels) + reg()  # + reg(): the README's
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    print(f"epoch {epoch}: loss {loss.item():.3f}, lr {optimizer.param_groups[0]['lr']:.4f}")


def main(amp):
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = load("four-shapes", "train", limit=512)
    data_loader = DataLoader(TensorDataset(images / 255, labels), batch_size=32, shuffle=True)
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 16, 5, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3), torch.nn.ReLU()),
        *(torch.nn.Flatten(), torch.nn.Linear(1600, 4)),
    ).to(device)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    scaler = torch.amp.GradScaler(device.type, enabled=amp and device.type == "cuda")

    reg = skreg.SmoothKernelRegularizer(model, strength=1e-3)  # the README's

    before = [layer.roughness for layer in reg.statistics()]
    for epoch in range(4):
        train_one_epoch(model, criterion, optimizer, data_loader, device, epoch, reg, scaler, amp)
        lr_scheduler.step()
    after = [layer.roughness for layer in reg.statistics()]
    print(skreg.format_statistics(reg.statistics()))  # the README's
    print(f"mean roughness: {sum(before) / len(before):.3f} -> {sum(after) / len(after):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    main(parser.parse_args().amp)

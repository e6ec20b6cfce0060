"""The regularizer with DistributedDataParallel, on the four shapes.

torchrun --standalone --nproc-per-node=2 examples/ddp.py
"""

import os

import torch
import torch.distributed as dist
import torch.distributed.nn  # before the group exists: its default arguments would keep it, and its threads, alive
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import skreg
from skreg.data import load


def main():
    cuda = torch.cuda.is_available()
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if cuda else "cpu")
    dist.init_process_group("nccl" if cuda else "gloo")
    torch.manual_seed(0)
    images, labels = load("four-shapes", "train", limit=512)
    data = TensorDataset(images / 255, labels)
    sampler = DistributedSampler(data)
    data_loader = DataLoader(data, batch_size=16, sampler=sampler)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 5, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(1600, 4),
    ).to(device)
    reg = skreg.SmoothKernelRegularizer(model, strength=1e-2)  # of the bare model
    before = [layer.roughness for layer in reg.statistics()]

    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(parallel.parameters(), lr=2e-3)
    reg.attach(optimizer)  # after the all-reduce, so without communication
    for epoch in range(4):
        sampler.set_epoch(epoch)
        for batch, target in data_loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(parallel(batch.to(device)), target.to(device)).backward()
            optimizer.step()

    after = [layer.roughness for layer in reg.statistics()]
    everywhere = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, after)
    assert everywhere == [after] * len(everywhere), "the processes hold different weights"
    if dist.get_rank() == 0:
        print(f"mean roughness: {sum(before) / len(before):.3f} -> {sum(after) / len(after):.3f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

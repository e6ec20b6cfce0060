"""DistributedDataParallel and ZeroRedundancyOptimizer: every process has whole weights."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from skreg import SmoothKernelRegularizer

from .common import STRENGTH, adamw, assert_same, batch, check, criterion, net, penalty, sgd, single_process, train


@check
def ddp_attached_and_loss_form() -> None:
    expected = single_process(adamw, 3)
    for attached in (True, False):
        model = net()
        reg, optimizer = SmoothKernelRegularizer(model, STRENGTH), adamw(model.parameters())
        parallel = DistributedDataParallel(model)
        if attached:
            reg.attach(optimizer)
        train(parallel, optimizer, 3, None if attached else reg)
        assert_same(model, expected)


@check
def ddp_decoupled() -> None:
    model = net()
    reg, optimizer = SmoothKernelRegularizer(model, STRENGTH), adamw(model.parameters())
    reg.attach(optimizer, decoupled=True)
    train(DistributedDataParallel(model), optimizer, 3)
    assert_same(model, single_process(adamw, 3, decoupled=True))


@check
def ddp_no_sync_counts_the_penalty_once_a_step() -> None:
    world, rank = dist.get_world_size(), dist.get_rank()
    expected = net()
    (sum(criterion(expected, batch(s, r)) for s in (0, 1) for r in range(world)) / world + penalty(expected)).backward()
    sgd(expected.parameters()).step()
    for attached in (True, False):
        model = net()
        reg, optimizer = SmoothKernelRegularizer(model, STRENGTH), sgd(model.parameters())
        if attached:
            reg.attach(optimizer)
        parallel = DistributedDataParallel(model)
        with parallel.no_sync():
            criterion(parallel, batch(0, rank)).backward()
        loss = criterion(parallel, batch(1, rank))
        (loss if attached else loss + reg()).backward()
        optimizer.step()
        assert_same(model, expected)


@check
def zero_redundancy_optimizer() -> None:
    for decoupled in (False, True):
        model = net()
        parallel = DistributedDataParallel(model)
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=0.01)
        SmoothKernelRegularizer(model, STRENGTH).attach(optimizer, decoupled=decoupled)
        train(parallel, optimizer, 3)
        assert_same(model, single_process(adamw, 3, decoupled=decoupled))
    optimizer._overlap_with_ddp = True
    with pytest.raises(ValueError, match=r"overlap_with_ddp=True steps inside the backward pass; add the penalty"):
        SmoothKernelRegularizer(model, STRENGTH).attach(optimizer)

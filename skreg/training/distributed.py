"""The processes that train one net together: who they are, how they agree, and how the net is spread over them.

`torchrun` starts them and says in the environment who is who. All run the same program on their part of each batch;
rank 0 alone reads and writes the run folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

T = TypeVar("T")

# Modules with fewer parameters than this are gathered together with what holds them.
_LEAST_SHARDED = 1_000_000
_SECONDS_TO_DROP_TENSORS = 0.1


class StoppedByMain(RuntimeError):
    """Rank 0 failed, and says why."""


def process_rank() -> int:
    """The rank that torchrun gave this process; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


@dataclass(frozen=True)
class Group:
    """The processes of a training; one, when it was not started by torchrun."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over the processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def largest(self, value: int) -> int:
        """The largest `value` that a process has. Waits for all of them, but for no GPU."""
        if self.size == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return int(shared)

    def on_main(self, function: Callable[[], T]) -> T:
        """Call `function` on rank 0, and return everywhere what it returns.

        Raises:
            StoppedByMain: on the other ranks, when it raises on rank 0.
        """
        if self.size == 1:
            return function()
        result: list[Any] = [None]
        failure: Exception | None = None
        if self.is_main:
            try:
                result = [function()]
            except Exception as error:
                failure = error
        failed = self.largest(failure is not None)
        if failure is not None:
            raise failure
        if failed:
            raise StoppedByMain("stopped, because rank 0 failed; see its message")
        dist.broadcast_object_list(result, device=torch.device("cpu"))
        return cast(T, result[0])

    def average_statistics(self, model: nn.Module) -> None:
        """Replace batch norm's running statistics, which each process takes of its own images, by their means."""
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and self.size > 1:
                for statistic in (module.running_mean, module.running_var):
                    if statistic is not None:
                        self.sum(statistic).div_(self.size)


@contextmanager
def join_group(device: str) -> Iterator[Group]:
    """Join the processes that torchrun started, or the group that the caller has made; alone without either.

    Raises:
        ValueError: several processes were told to use one GPU.
    """
    if dist.is_available() and dist.is_initialized():
        yield Group(dist.get_rank(), dist.get_world_size())
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group()
        return
    backend = "gloo"
    if torch.device(device).type == "cuda":
        if torch.device(device).index is not None:
            raise ValueError(f"device: found {device}; with several processes give cuda, and each takes its own GPU")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    try:
        yield Group(dist.get_rank(), dist.get_world_size())
    except KeyboardInterrupt:
        dist.destroy_process_group()  # all stop together
        raise
    # After an error the others are not waited for: they find this process gone, and end too.
    dist.destroy_process_group()
    # DTensor's caches keep FSDP's mesh, so the group, so the threads of gloo. One that has yet to drop the tensors of
    # its last call needs the interpreter for it, and aborts the process where that has gone (pytorch/pytorch#190489).
    time.sleep(_SECONDS_TO_DROP_TENSORS)


def shard(model: nn.Module, device: str, group: Group) -> None:
    """Spread the parameters of `model` over the processes, by FSDP2, each kernel whole on one of them."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(torch.device(device).type, (group.size,))
    waiting = {parameter: parameter.numel() for parameter in model.parameters()}
    for module in reversed(list(model.modules())):  # what a module holds comes before it
        own = [parameter for parameter in module.parameters() if parameter in waiting]
        if module is model or sum(waiting[parameter] for parameter in own) >= _LEAST_SHARDED:
            fully_shard(module, mesh=mesh)
            waiting = {parameter: waiting[parameter] for parameter in waiting if parameter not in set(own)}


def replicate(model: nn.Module, device: str) -> nn.Module:
    """Wrap `model` so that gradients are averaged over the processes."""
    # Batch norm's statistics are averaged once an epoch; two passes before a gradient do not go with broadcasts.
    return DistributedDataParallel(
        model,
        device_ids=[torch.cuda.current_device()] if torch.device(device).type == "cuda" else None,
        broadcast_buffers=False,
    )


def synchronise_batch_norm(model: nn.Module, device: str) -> nn.Module:
    """Let batch norm take its statistics of the whole batch, where PyTorch can: on GPUs."""
    if torch.device(device).type != "cuda":
        return model
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted


def gather_states(model: nn.Module, optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The state of a sharded net and its optimizer as one process has them; on rank 0, and empty elsewhere.

    By `torch.distributed.checkpoint`, whose whole form names parameters; ours numbers them, as optimizers do.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    if not optimizer.state:
        # get_state_dict would take a step to have a state, and Adam counts its steps.
        weights = get_model_state_dict(model, options=options)
        return (weights, optimizer.state_dict()) if weights else ({}, {})
    weights, named = get_state_dict(model, optimizer, options=options)
    numbers = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    if not named:
        return {}, {}
    groups = [
        {**each, "params": [numbers[name] for name in each["params"]]}
        for each in cast(list[dict[str, Any]], named["param_groups"])
    ]
    states = {numbers[name]: state for name, state in cast(dict[str, Any], named["state"]).items()}
    return weights, {"state": states, "param_groups": groups}


def scatter_states(model: nn.Module, optimizer: Optimizer, weights: dict[str, Any], numbered: dict[str, Any]) -> None:
    """The inverse of `gather_states`, whatever the number of processes; each has the whole states."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_state_dict

    # How the weights are updated is for this process to say: the saved ones may not have been sharded.
    groups = [
        {**saved, **{key: own[key] for key in ("fused", "foreach") if key in own}}
        for saved, own in zip(numbered["param_groups"], optimizer.param_groups, strict=True)
    ]
    numbered = {**numbered, "param_groups": groups}
    options = StateDictOptions(full_state_dict=True)
    if not numbered["state"]:
        set_model_state_dict(model, weights, options=options)
        optimizer.load_state_dict(numbered)
        return
    names = [name for name, _ in model.named_parameters()]
    named: dict[str, Any] = {
        "state": {names[number]: state for number, state in numbered["state"].items()},
        "param_groups": [
            {**each, "params": [names[number] for number in each["params"]]} for each in numbered["param_groups"]
        ],
    }
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=named, options=options)

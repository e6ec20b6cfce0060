"""What each process of `test_processes.py` runs: the checks of this folder.

Run by ``python -m torch.distributed.run``. Rank 0 writes ``{check: "ok" or traceback}`` to the file that it is given;
a check that fails on another rank is a failure as well.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from checks import CHECKS


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    report: dict[str, str] = {}
    for name, function in CHECKS.items():
        try:
            function()
            result = "ok"
        except BaseException:
            result = f"rank {dist.get_rank()}: {traceback.format_exc()}"
        results: list[str] = [""] * dist.get_world_size()
        dist.all_gather_object(results, result)
        report[name] = next((r for r in results if r != "ok"), "ok")
    if dist.get_rank() == 0:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump(report, file)
    dist.barrier()
    # Not the interpreter's own end: a thread of gloo that then drops a tensor aborts (pytorch/pytorch#190489).
    os._exit(0)


if __name__ == "__main__":
    assert "LOCAL_RANK" in os.environ, "run me by python -m torch.distributed.run"
    main()

"""``python -m skreg``: what is installed, and a self-test; the exit status is 1 if a part of it fails.

With arguments it is the command line, as torchrun wants it: ``torchrun -m skreg train ...``.
"""

from __future__ import annotations

import sys

from skreg import native
from skreg.self_test import build_report, self_test


def main() -> int:
    for name, value in build_report().items():
        print(f"{name:>18}  {value}")
    results = self_test()
    for name, passed, detail in results:
        print(f"{name:>18}  {'ok' if passed else 'FAILED'}, {detail}")
    if native.cpu_module is None:
        print("no native operator: plain PyTorch gives the same results, many times slower")
        return 1
    if not all(passed for _, passed, _ in results):
        print("the self-test failed: rebuild skreg against the torch that is installed")
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1:]:
        from skreg._console import main as command_line

        command_line()
    else:
        sys.exit(main())

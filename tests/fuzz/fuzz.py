"""Coverage-guided fuzzing of every reader of outside bytes, each in a process of its own.

    python tests/fuzz/fuzz.py --seconds 60 [--corpus FOLDER] [TARGET...]

Prints a line a target: inputs tried, seconds, what was found. What makes a reader fail stays in CORPUS/faults, by a
name that begins with the target's; the exit status is then 1. The corpus grows from run to run.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import atheris
import torch

# Python code only: the native code behind it is instrumented for no fuzzer.
with atheris.instrument_imports(include=["skreg", "pickle", "torch._weights_only_unpickler"]):
    import torch._weights_only_unpickler
    from reader_targets import TARGETS, Target

MEBIBYTES, TIMEOUT = 3072, 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz-corpus"))
    options = parser.parse_args()
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"unknown target {', '.join(sorted(unknown))}; expected some of {', '.join(TARGETS)}")
    torch.set_num_threads(1)  # no threads that a fork would lose
    sound = [run(name, options.seconds, options.corpus) for name in options.targets or TARGETS]
    return 0 if all(sound) else 1


def run(name: str, seconds: int, corpus: Path) -> bool:
    """Fuzz one target in a process of its own; whether nothing was found."""
    slug = re.sub(r"\W+", "-", name)
    folder, faults, log = corpus / slug, corpus / "faults", corpus / f"{slug}.log"
    folder.mkdir(parents=True, exist_ok=True)
    faults.mkdir(exist_ok=True)
    for number, example in enumerate(TARGETS[name].examples()):
        (folder / f"example-{number}").write_bytes(example)
    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEBIBYTES}", f"-timeout={TIMEOUT}", "-max_len=65536"]
    sys.stdout.flush()
    child = os.fork()  # importing once and forking spares each target the seconds that importing torch takes
    if child == 0:
        fuzz(TARGETS[name], [*limits, f"-artifact_prefix={faults}/{slug}-", str(folder)], log)
    status = os.waitpid(child, 0)[1]
    text = log.read_text(errors="replace")
    tried = re.search(r"Done (\d+) runs in (\d+) second", text)
    if status == 0 and tried:
        print(f"{name}: {tried[1]} inputs in {tried[2]} s, nothing found", flush=True)
        return True
    print(f"{name}: FAILED, see {faults} and {log}\n{text[-3000:]}", flush=True)
    return False


def fuzz(target: Target, arguments: list[str], log: Path) -> None:
    """Hand `target` to the fuzzer, which ends the process; what it prints goes to `log`."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with tempfile.TemporaryDirectory() as folder:
        atheris.Setup([sys.argv[0], *arguments], lambda content: target.run(Path(folder), content) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())

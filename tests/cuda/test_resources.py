"""What the compiler made of the kernels, for every architecture in the build: registers, stack, vector accesses.
Needs cuobjdump and nvdisasm (they come with a CUDA toolkit, and with triton), no GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from skreg import native

SOURCES = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
REGISTERS = 64  # eight blocks of 128 threads on a multiprocessor
KERNELS = {"WorkE0", "WorkE1", "WorkE2", "scale_kernel"}  # sums, gradients, Hessian-vector products


def dump(option: str) -> str:
    """What cuobjdump tells of the built operators."""
    places = os.environ["PATH"]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:
        places += os.pathsep + str(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    tool = shutil.which("cuobjdump", path=places)
    if tool is None or shutil.which("nvdisasm", path=places) is None:
        pytest.skip("needs cuobjdump and nvdisasm")
    if native.cuda_module is None or native.cuda_module.__file__ is None:
        pytest.skip("skreg is built without CUDA")
    done = subprocess.run(
        [tool, option, native.cuda_module.__file__],
        env={**os.environ, "PATH": places, "LD_PRELOAD": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def by_architecture(text: str, entry: str) -> dict[tuple[str, str], str]:
    """The part of `text` behind every match of `entry`, by architecture and kernel."""
    found = {}
    for part in re.split(r"^arch = ", text, flags=re.MULTILINE)[1:]:
        pieces = re.split(entry, part)
        for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
            kernel = next(k for k in KERNELS if k in name)
            found[part.split()[0], kernel] = body
    return found


def built_for() -> set[str]:
    assert native.cuda_module is not None
    return {f"sm_{a.replace('.', '')}" for a in re.findall(r"\d+\.\d", native.cuda_module.architectures)}


def test_registers_stack_and_spills():
    kernels = by_architecture(dump("--dump-resource-usage"), r"Function (\S+):")
    assert set(kernels) == {(a, k) for a in built_for() for k in KERNELS}
    for key, text in kernels.items():
        registers, stack, local = (int(re.search(rf"{what}:(\d+)", text)[1]) for what in ("REG", "STACK", "LOCAL"))
        assert (stack, local) == (0, 0), key  # spilled registers would lie there too
        assert registers <= REGISTERS, key


def test_memory_is_read_and_written_by_16_bytes():
    kernels = by_architecture(dump("--dump-sass"), r"Function : (\S+)")
    assert set(kernels) == {(a, k) for a in built_for() for k in KERNELS}
    for key, text in kernels.items():
        assert re.search(r"\bLDG\.E\.128\b", text), key
        if key[1] != "WorkE0":
            assert re.search(r"\bSTG\.E\.128\b", text), key
        assert not re.search(r"\b(LDL|STL)\b", text), f"{key}: an access to a stack"
        assert not re.search(r"\b(LD|ST)\.E\b", text), f"{key}: an access to any kind of memory"
        assert not re.search(r"\b(ATOMG?|REDG?|ATOMS)\.\S*F(16|32|64)", text), f"{key}: an addition in any order"


def test_hipify_leaves_nothing_of_cuda_behind(tmp_path):
    from torch.utils.hipify import hipify_python

    sources = SOURCES.parent
    results = hipify_python.hipify(
        project_directory=str(sources),
        output_directory=str(tmp_path / "made"),
        includes=[str(tmp_path / "made" / "*")],
        is_pytorch_extension=True,
        show_detailed=False,
    )
    made = {Path(r.hipified_path) for r in results.values() if r.hipified_path}
    assert any(path.suffix == ".hip" for path in made)
    for path in made:
        code = re.sub(r"//.*", "", path.read_text())
        left = re.findall(r"\bcuda[A-Z]\w*|\bcuda_\w+\.h\b", code)
        assert not left, (path, left)

"""What the compiler makes of the kernels: registers, stack, vector accesses. Needs nvcc, no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "csrc" / "cuda"
# Double backward holds two kernels a thread, and 128 registers still let enough threads run to keep the memory busy:
# docs/cuda.md has the numbers.
REGISTERS = {"WorkE0": 64, "WorkE1": 64, "WorkE2": 128, "scale_kernel": 64}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """ptxas's report and the PTX of all kernels."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    folder = tmp_path_factory.mktemp("cuda")
    report, ptx = "", ""
    for source in sorted(SOURCES.glob("*.cu")):
        command = [nvcc, "-std=c++17", "-O3", "-lineinfo", "-Xptxas=-v", "-Werror=all-warnings", "--keep"]
        command += ["--keep-dir", str(folder), "-arch=sm_80", "-cubin", "-o", str(folder / "out"), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        report += done.stdout + done.stderr
        ptx += (folder / f"{source.stem}.ptx").read_text()
    return report, ptx


def test_registers_stack_and_spills(compiled):
    entries = re.findall(
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        compiled[0],
        re.DOTALL,
    )
    assert len(entries) == 4
    for name, stack, stores, loads, registers in entries:
        limit = next(limit for part, limit in REGISTERS.items() if part in name)
        assert (stack, stores, loads) == ("0", "0", "0"), name
        assert int(registers) <= limit, name


def test_memory_is_read_and_written_by_16_bytes(compiled):
    kernels = {m.group(1): m.group(0) for m in re.finditer(r"\.entry (\S+)\(.*?\n}", compiled[1], re.DOTALL)}
    assert len(kernels) == 4
    for name, text in kernels.items():
        assert re.search(r"ld\.global(\.nc)?\.v4", text), name
        if "WorkE0" not in name:
            assert re.search(r"st\.global\.v4", text), name
        assert not re.search(r"\b(ld|st)\.local", text), name
        assert not re.search(r"\b(ld|st)\.(v\d\.)?[bfsu]\d+\b", text), f"{name}: an access to any kind of memory"
        assert not re.search(r"\b(atom|red)\.\S*\.f(16|32|64)", text), name


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

"""Builds the native operators. torch is imported inside the build command only: packaging tools must not need it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext as setuptools_build_ext

CPU_SOURCES = ["csrc/skreg.cpp", *sorted(str(p) for p in Path("csrc/cpu").glob("*.cpp"))]
CUDA_SOURCES = sorted(str(p) for p in Path("csrc/cuda").glob("*.c*") if p.suffix in (".cu", ".cpp"))
HEADERS = sorted(str(p) for p in Path("csrc").rglob("*.h*")) + sorted(str(p) for p in Path("csrc").rglob("*.cuh"))
# The LibTorch stable ABI of this version: a build against any later torch runs under all of them.
TARGET_VERSION = "-DTORCH_TARGET_VERSION=0x020a000000000000"


def has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "c++").split()[0]) is not None


def cuda_toolkit(torch: Any) -> Path | None:
    """The CUDA toolkit to build with, or None for a CPU build. SKREG_CUDA=0 or 1 forces either."""
    wish = os.environ.get("SKREG_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"SKREG_CUDA: expected 0 or 1, found {wish!r}")
    if wish == "0":
        return None
    if torch.version.cuda is None:
        if wish == "1":
            raise SystemExit(f"SKREG_CUDA=1, but torch {torch.__version__} is built without CUDA; install a CUDA build")
        return None
    looked: list[str] = []
    for root in candidate_toolkits():
        header, compiler = root / "include" / "cuda_runtime.h", root / "bin" / "nvcc"
        if header.exists() and compiler.exists():
            return root
        looked.append(f"{header} and {compiler}")
    if wish == "1":
        places = "; ".join(looked) or "nowhere: no nvcc on PATH, no CUDA_HOME"
        raise SystemExit(f"SKREG_CUDA=1, but no CUDA toolkit was found. Looked for: {places}")
    return None


def candidate_toolkits() -> list[Path]:
    """Where nvcc says that it lives (what is on PATH can be a wrapper), then CUDA_HOME, then the usual place."""
    found = []
    nvcc = shutil.which("nvcc")
    if nvcc:
        with tempfile.NamedTemporaryFile(suffix=".cu") as source:
            answer = subprocess.run([nvcc, "--dryrun", source.name], capture_output=True, text=True, check=False)
        top = re.search(r"^#\$ TOP=(.+)$", answer.stderr, re.MULTILINE)
        if top:
            found.append(Path(top.group(1)).resolve())
    found += [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    return [*found, Path("/usr/local/cuda")]


def set_architectures(torch: Any, toolkit: Path) -> None:
    """torch's own architectures, as far as this nvcc knows them, the last one with PTX for GPUs to come."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return
    nvcc = str(toolkit / "bin" / "nvcc")
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"compute_(\d+)", listed))
    wanted = {m.group(1) for a in torch.cuda.get_arch_list() if (m := re.fullmatch(r"sm_(\d+)", a))}
    chosen = sorted(known & wanted or known, key=int)
    os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(f"{a[:-1]}.{a[-1]}" for a in chosen) + "+PTX"


def extensions(torch: Any) -> list[Extension]:
    from torch.utils import cpp_extension

    # torch's own headers have unused parameters.
    warnings = ["-Wall", "-Wextra", "-Wno-unused-parameter"] + (
        ["-Werror"] if os.environ.get("SKREG_WERROR") == "1" else []
    )
    version = f'-DSKREG_TORCH_VERSION="{torch.__version__}"'
    flags = ["-O3", "-g0", TARGET_VERSION, version, *warnings]
    built = [cpp_extension.CppExtension("skreg._C", CPU_SOURCES, extra_compile_args={"cxx": flags}, depends=HEADERS)]
    toolkit = cuda_toolkit(torch)
    if toolkit:
        os.environ["CUDA_HOME"] = cpp_extension.CUDA_HOME = str(toolkit)
        set_architectures(torch, toolkit)
        architectures = f'-DSKREG_ARCHITECTURES="{os.environ["TORCH_CUDA_ARCH_LIST"]}"'
        nvcc = [
            "-O3",
            "-lineinfo",
            "--threads=2",
            "-Xptxas=-v",
            TARGET_VERSION,
            version,
            architectures,
            "-DUSE_CUDA",
        ]
        if os.environ.get("SKREG_WERROR") == "1":
            nvcc.append("-Werror=all-warnings")
        built.append(
            cpp_extension.CUDAExtension(
                "skreg._cuda",
                CUDA_SOURCES,
                extra_compile_args={"cxx": [*flags, "-DUSE_CUDA", architectures], "nvcc": nvcc},
                depends=HEADERS,
            )
        )
    return built


class build_ext(setuptools_build_ext):
    """torch's build command with skreg's sources, or nothing where there is no compiler."""

    def run(self) -> None:
        if not has_compiler():
            print("skreg: no C++ compiler found; installing without the native operator (slower, same results)")
            self.extensions = self.distribution.ext_modules = []
            return
        try:
            import torch
            from torch.utils.cpp_extension import BuildExtension
        except ImportError as error:
            raise SystemExit(f"skreg: building needs torch ({error}); install torch first") from error
        self.extensions = self.distribution.ext_modules = extensions(torch)
        command = BuildExtension(self.distribution)
        for option in ("build_lib", "build_temp", "inplace", "debug", "force", "editable_mode"):
            setattr(command, option, getattr(self, option))
        command.ensure_finalized()
        command.run()


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("skreg._C", CPU_SOURCES, depends=HEADERS)],
        cmdclass={"build_ext": build_ext},
    )

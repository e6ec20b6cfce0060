"""The build's decisions: with and without a compiler, a toolkit, a CUDA build of torch."""

import importlib.util
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

import skreg

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def setup_file(monkeypatch):
    for name in ("SKREG_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    spec = importlib.util.spec_from_file_location("skreg_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fake_torch(cuda="13.0", architectures=("sm_75", "sm_80", "sm_90")):
    return SimpleNamespace(
        __version__="2.14.1",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(get_arch_list=lambda: list(architectures)),
    )


@pytest.fixture
def toolkit(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\nprintf 'compute_75\\ncompute_80\\ncompute_90\\ncompute_120\\n'\n")
    nvcc.chmod(0o755)
    return tmp_path


def test_cuda_needs_a_cuda_build_of_torch_and_a_toolkit(setup_file, monkeypatch, toolkit):
    monkeypatch.setattr(setup_file, "candidate_toolkits", lambda: [toolkit / "nowhere", toolkit])
    assert setup_file.cuda_toolkit(fake_torch()) == toolkit
    assert setup_file.cuda_toolkit(fake_torch(cuda=None)) is None
    monkeypatch.setenv("SKREG_CUDA", "0")
    assert setup_file.cuda_toolkit(fake_torch()) is None


def test_a_wrapper_without_headers_is_not_believed(setup_file, monkeypatch, toolkit):
    (toolkit / "include" / "cuda_runtime.h").unlink()
    monkeypatch.setattr(setup_file, "candidate_toolkits", lambda: [toolkit])
    assert setup_file.cuda_toolkit(fake_torch()) is None


def test_forcing_cuda_says_what_is_missing(setup_file, monkeypatch, toolkit):
    monkeypatch.setenv("SKREG_CUDA", "1")
    with pytest.raises(SystemExit, match=r"torch 2\.14\.1 is built without CUDA"):
        setup_file.cuda_toolkit(fake_torch(cuda=None))
    monkeypatch.setattr(setup_file, "candidate_toolkits", lambda: [toolkit / "nowhere"])
    with pytest.raises(SystemExit, match=r"no CUDA toolkit was found\. Looked for: .*nowhere.*cuda_runtime\.h"):
        setup_file.cuda_toolkit(fake_torch())
    monkeypatch.setenv("SKREG_CUDA", "yes")
    with pytest.raises(SystemExit, match="expected 0 or 1, found 'yes'"):
        setup_file.cuda_toolkit(fake_torch())


def test_architectures_are_torch_s_as_far_as_nvcc_knows_them(setup_file, monkeypatch, toolkit):
    setup_file.set_architectures(fake_torch(architectures=("sm_75", "sm_90", "sm_999")), toolkit)
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "7.5;9.0+PTX"
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6")
    setup_file.set_architectures(fake_torch(), toolkit)
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "8.6"
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST")
    setup_file.set_architectures(fake_torch(architectures=()), toolkit)
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "7.5;8.0;9.0;12.0+PTX"


def test_without_a_compiler_the_build_succeeds_with_plain_python(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path]
    environment = {**os.environ, "CXX": "no-such-compiler"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no C++ compiler found" in done.stdout
    assert not list(tmp_path.rglob("*.so"))


def test_packaging_tools_do_not_need_torch():
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['setup.py', '--version']; exec(open('setup.py').read())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(skreg.__version__)


def test_the_source_distribution_is_complete_and_carries_the_version(tmp_path):
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, ROOT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    name = f"skreg-{skreg.__version__}"
    with tarfile.open(tmp_path / f"{name}.tar.gz") as archive:
        held = set(archive.getnames())
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    needed = [line for line in listed.split() if line.startswith(("csrc/", "skreg/", "tests/", "docs/", "examples/"))]
    assert "csrc/skreg.cpp" in needed
    assert "skreg/py.typed" in needed
    assert not [file for file in needed if f"{name}/{file}" not in held]
    assert not [file for file in held if file.endswith(".so")]

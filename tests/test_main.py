"""The build report, the self-test, and skreg without its native operator."""

import subprocess
import sys

import pytest

from skreg import native
from skreg.self_test import build_report, self_test

HIDE_NATIVE = """
import sys
sys.modules["skreg._C"] = None   # importing it raises ImportError, as where there was no compiler
"""


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")
def test_report_and_self_test():
    report = build_report()
    assert "2.10" in report["ABI"]
    assert native.cpu_module.simd_level() in report["SIMD"]
    results = self_test()
    assert {name for name, _, _ in results} >= {f"cpu {d}" for d in ("float32", "float64", "bfloat16", "float16")}
    assert all(passed for _, passed, _ in results), results


@pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")
def test_module_as_a_program():
    done = subprocess.run([sys.executable, "-m", "skreg"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "CPU operator" in done.stdout
    assert "cpu float16  ok" in done.stdout


def test_self_test_fails_when_the_operator_is_wrong(monkeypatch):
    from skreg import self_test as module

    monkeypatch.setattr(module, "penalty", lambda weights, *rest: sum(w.float().square().sum() for w in weights))
    results = self_test()
    assert not any(passed for _, passed, _ in results)


def test_without_native_operator_it_runs_and_says_so_once():
    done = python(
        HIDE_NATIVE
        + """
import warnings, torch, skreg
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        weight = torch.ones(2, 2, 3, 3, requires_grad=True)
        skreg.smooth_kernel_penalty([weight]).backward()
ours = [str(w.message) for w in caught if "skreg" in str(w.message)]
assert len(ours) == 1 and "Plain PyTorch is used instead" in ours[0], ours
assert weight.grad.abs().sum() > 0
"""
    )
    assert done.returncode == 0, done.stderr


def test_program_without_native_operator_exits_with_one():
    done = python(HIDE_NATIVE + "import runpy; runpy.run_module('skreg', run_name='__main__')")
    assert done.returncode == 1
    assert "missing, plain PyTorch is used" in done.stdout


def test_import_needs_torch_and_numpy_alone():
    lab = ("torchvision", "foolbox", "scipy", "safetensors", "matplotlib", "rich", "typer")
    done = python(
        f"""
import sys
for name in {lab!r}:
    sys.modules[name] = None
import skreg, torch
skreg.SmoothKernelRegularizer(torch.nn.Conv2d(1, 1, 3))()
import skreg.attacks, skreg.losses
"""
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("7.5;8.0;9.0+PTX", (7, 0), False),
        ("7.5;8.0;9.0+PTX", (8, 6), True),
        ("7.5;8.0;9.0+PTX", (12, 0), True),
        ("8.0 9.0", (10, 0), False),
        ("8.6", (8, 0), False),
        ("9.0a", (9, 0), True),
        ("9.0a+PTX", (10, 0), False),
        ("10.0f", (10, 3), True),
        ("Ampere", (8, 0), True),
    ],
)
def test_architectures_that_a_build_runs_on(architectures, capability, runs):
    assert native.runs_on(architectures, capability) is runs


def test_a_torch_that_is_too_old_is_named():
    done = python("import torch; torch.__version__ = '2.9.1+cpu'; import skreg")
    assert done.returncode == 1
    assert "ImportError: skreg needs torch 2.10 or later, found 2.9.1+cpu: pip install" in done.stderr
    for version in ("2.10.0", "2.14.1+cu130", "3.0.0a0"):
        native.check_torch_version(version)

"""The byte counts of docs/cuda.md: equal to what a call takes and returns, and equal to what the page says."""

import importlib.util
from pathlib import Path

import pytest
import torch

from skreg import native
from skreg.options import PenaltyOptions

ROOT = Path(__file__).resolve().parents[2]
SPEC = importlib.util.spec_from_file_location("roofline", ROOT / "benchmarks" / "roofline.py")
roofline = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(roofline)


@pytest.mark.skipif(native.cpu_module is None, reason="the native operator is not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_are_those_of_the_tensors_that_a_call_takes_and_returns(dtype):
    shapes = [(4, 3, 3, 3), (2, 2, 5, 5)]
    weights = [torch.rand(s).to(dtype) for s in shapes]
    others = [torch.zeros_like(w) for w in weights]
    ones, options = torch.ones(2, dtype=torch.float64), PenaltyOptions().native()
    ops = native.operators

    def size(tensors):
        return sum(t.nbytes for t in tensors)

    moved = {
        "value": size(weights),
        "value_and_gradients": size(weights) + size(ops.value_and_gradients(weights, ones, *options)[2]),
        "gradients": size(weights) + size(ops.gradients(weights, ones, None, *options)),
        "add_gradients_": size(weights) + 2 * size(others),  # read and written
        "scale_": 2 * size(others),
        "hessian_vector": size(weights) + 2 * size(others),
    }
    for name, wanted in moved.items():
        assert roofline.bytes_moved(name, shapes, element=dtype.itemsize) == wanted, name
    for name in ("value_and_gradients", "gradients", "add_gradients_"):
        extra = roofline.bytes_moved(name, shapes, by_layer=True) - roofline.bytes_moved(name, shapes)
        assert extra == roofline.bytes_moved("value", shapes)  # the sums first


def test_the_page_shows_the_table():
    assert roofline.table() in (ROOT / "docs" / "cuda.md").read_text()

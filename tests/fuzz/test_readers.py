"""Readers of outside bytes: whatever is in the file, they take it or say what is wrong; nothing else."""

import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reader_targets import TARGETS

SECONDS, BYTES = 5, 256 * 2**20
LYING = [b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 8, b"[" * 9000, b"-1", b"1e999"]


@pytest.fixture(scope="module", params=TARGETS)
def target(request):
    return TARGETS[request.param]


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def test_the_example_is_taken(target, tmp_path):
    for example in target.examples():
        assert target.run(tmp_path, example)


def test_an_empty_file_is_refused(target, tmp_path):
    # A log without a line is that of a run in its first epoch.
    assert target.run(tmp_path, b"") == (target.file == "log.jsonl")


@st.composite
def damaged(draw, examples):
    """An example with a few bytes overwritten, inserted or removed, numbers that a header could hold among them."""
    content = bytearray(draw(st.sampled_from(examples)))
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(content)))
        new = draw(st.one_of(st.binary(max_size=8), st.sampled_from(LYING)))
        removed = draw(st.integers(0, 16))
        content[position : position + removed] = new
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


@given(data=st.data())
def test_a_damaged_file_is_read_or_refused_at_once(target, folder, data):
    examples = target.examples()
    content = data.draw(st.one_of(damaged(examples), st.binary(max_size=200)))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.process_time()
    target.run(folder, content)
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < BYTES


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed (x86-64 Linux only)")
def test_the_coverage_guided_fuzzer_finds_nothing_in_a_short_run(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("fuzz.py"), "--seconds", "2", "--corpus", tmp_path / "corpus"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    for name in TARGETS:
        assert f"{name}: " in done.stdout

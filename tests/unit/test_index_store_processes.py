"""Freed memory goes back to the system, as Linux counts it in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

BLOCK_MB = 25
"""Of the vectors of a delta, 384 numbers each."""
_PROGRAM = """
from index_store.processes import bound_kept_memory, give_memory_back

def own_mb():
    text = open("/proc/self/status").read()
    return int(text.partition("RssAnon:")[2].split()[0]) / 1024

def block(size):
    return bytearray(b"x") * size
"""
_LARGE_BLOCKS = f"""
for turn in range(3):
    large = block({BLOCK_MB} << 20)
    behind = block(100_000)
    before = own_mb()
    del large
    freed = before - own_mb()
print(freed)
"""
_SCATTERED_BLOCKS = """
blocks = [block(100_000) for _ in range(400)]
blocks = blocks[::10]
before = own_mb()
give_memory_back()
print(before - own_mb())
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")


def freed_mb(program: str) -> float:
    """Run it as a process and return what it prints."""
    environ = {"PYTHONPATH": ":".join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", _PROGRAM + program], env=environ, capture_output=True, text=True, timeout=60
    )
    assert said.returncode == 0, said.stderr
    return float(said.stdout)


def test_a_large_block_is_not_kept() -> None:
    assert freed_mb("bound_kept_memory({})" + _LARGE_BLOCKS) > BLOCK_MB - 1


def test_the_environment_goes_before() -> None:
    """Left alone, glibc learns from the first large block to keep the next ones."""
    chosen = "bound_kept_memory({'MALLOC_TRIM_THRESHOLD_': '33554432'})"
    assert freed_mb(chosen + _LARGE_BLOCKS) < 1


def test_pages_between_blocks_in_use_are_given_back() -> None:
    assert freed_mb(_SCATTERED_BLOCKS) > 25

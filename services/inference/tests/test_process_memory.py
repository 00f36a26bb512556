# SPDX-License-Identifier: Apache-2.0
"""What this process may use, and what it has taken."""

import mmap
import os

import pytest

from headrace_inference.adapters.process_memory import (
    PeakGrowth,
    allocated_bytes,
    memory_allowed_bytes,
)

PEAK_IS_TOLD = os.access("/proc/self/clear_refs", os.W_OK)
MACHINE_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, MACHINE_BYTES),
        ({"memory.max": "max\n"}, MACHINE_BYTES),
        ({"memory.max": "1000000\n"}, 1_000_000),
        ({"memory/memory.limit_in_bytes": "2000000\n"}, 2_000_000),
        ({"memory.max": "9223372036854771712"}, MACHINE_BYTES),
    ],
)
def test_memory_follows_the_limit_of_the_container(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert expected == memory_allowed_bytes(tmp_path)


@pytest.mark.skipif(allocated_bytes() == 0, reason="this C library does not tell")
def test_what_is_allocated_counts_until_it_is_freed():
    before = allocated_bytes()
    held = [bytes(50_000_000)]
    with_it = allocated_bytes()
    held.clear()

    assert with_it - before > 45_000_000
    assert with_it - allocated_bytes() > 45_000_000


def resident(size_bytes):
    """From the kernel, to which it goes back when it is closed, whatever the heap has free."""
    pages = mmap.mmap(-1, size_bytes)
    pages[:: mmap.PAGESIZE] = bytes(-(-size_bytes // mmap.PAGESIZE))
    return pages


def full_of_holes():
    """Keeps the heap as long as the process had run for days: what is taken lies between."""
    blocks = [b"1" * 100_000 for _ in range(1_500)]
    pins = [b"1" * 5_000 for _ in range(1_000)]
    blocks.clear()
    return pins


@pytest.mark.skipif(not PEAK_IS_TOLD, reason="this kernel does not tell")
def test_what_was_taken_for_a_moment_is_told():
    resident(90_000_000).close()
    growth = PeakGrowth()
    resident(50_000_000).close()

    assert 45_000_000 < growth.bytes() < 80_000_000
    assert not growth.moved()
    assert growth.bytes() < 10_000_000


@pytest.mark.skipif(not PEAK_IS_TOLD, reason="this kernel does not tell")
def test_what_lies_free_in_the_heap_is_told_once():
    pins = full_of_holes()
    growth = PeakGrowth()
    bytearray(b"1") * 50_000_000

    assert 45_000_000 < growth.bytes() < 80_000_000
    assert not growth.moved()
    assert growth.bytes() < 10_000_000
    assert pins


@pytest.mark.skipif(not PEAK_IS_TOLD, reason="this kernel does not tell")
def test_what_stays_or_goes_is_told_once_and_then_begun_from():
    growth = PeakGrowth()
    held = resident(50_000_000)
    assert growth.moved()
    assert not growth.moved()

    held.close()
    assert growth.moved()
    assert growth.bytes() < 10_000_000


def test_kernel_that_does_not_tell_tells_of_nothing(tmp_path):
    growth = PeakGrowth(tmp_path / "none")
    bytearray(b"1") * 50_000_000

    assert (0, False) == (growth.bytes(), growth.moved())
    (tmp_path / "status").write_text("Name: python\n")
    assert 0 == PeakGrowth(tmp_path).bytes()


def test_file_that_cannot_be_opened_any_more_tells_of_nothing(tmp_path):
    (tmp_path / "status").write_text("VmRSS:\t 10 kB\nVmHWM:\t 20 kB\n")
    growth = PeakGrowth(tmp_path)
    assert 10 * 1024 == growth.bytes()

    (tmp_path / "status").unlink()

    assert 0 == growth.bytes()

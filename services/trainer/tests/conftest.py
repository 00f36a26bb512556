# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the trainer's tests."""

import pytest

from headrace_kit.testing import FixedClock
from headrace_trainer.adapters.memory_run_store import MemoryRunStore


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def runs(clock: FixedClock) -> MemoryRunStore:
    return MemoryRunStore(clock=clock)

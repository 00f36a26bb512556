# SPDX-License-Identifier: Apache-2.0
"""A lease is held through steps that say nothing, and its loss is told."""

from __future__ import annotations

import threading

import pytest

from headrace.errors import Unavailable
from headrace_kit.testing import FixedClock, wait_until
from headrace_trainer.adapters.lease_keeper import ThreadLeaseKeeper
from headrace_trainer.adapters.memory_run_store import MemoryRunStore
from headrace_trainer.domain.run import LEASE_S, LeaseLost
from headrace_trainer.testing import a_request

INTERVAL_S = 0.005


def nobody_cares() -> None:
    """There is nothing to end."""


def keeper_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("lease-")]


class Store(MemoryRunStore):
    """Its renewals fail as a test says."""

    error: Exception | None = None
    renewals = 0

    def renew(self, lease, progress):
        self.renewals += 1
        if self.error is not None:
            raise self.error
        return super().renew(lease, progress)


def test_lease_is_renewed_while_a_long_step_says_nothing(clock: FixedClock) -> None:
    runs = Store(clock=clock)
    runs.add(a_request())
    lease, _ = runs.claim()
    with ThreadLeaseKeeper(runs, interval_s=INTERVAL_S).hold(lease, lost=nobody_cares) as progress:
        progress("joining the training set")
        for _ in range(3):
            clock.advance(LEASE_S * 1_000_000 - 1)
            # The first renewal that begins now has ended when the second one begins.
            enough = runs.renewals + 2
            wait_until(lambda enough=enough: runs.renewals >= enough)
            assert runs.claim() is None

        assert "joining the training set" == runs.get("run-1").progress
    assert [] == keeper_threads()


def test_lost_lease_is_told(runs: MemoryRunStore, clock: FixedClock) -> None:
    runs.add(a_request())
    lease, _ = runs.claim()
    clock.advance(LEASE_S * 1_000_000 + 1)
    runs.claim()

    with (
        pytest.raises(LeaseLost),
        ThreadLeaseKeeper(runs, interval_s=INTERVAL_S).hold(lease, lost=nobody_cares) as progress,
    ):
        progress("uploading the model")

    assert [] == keeper_threads()


def test_step_that_says_nothing_is_told_when_the_run_is_cancelled(runs: MemoryRunStore) -> None:
    runs.add(a_request())
    lease, _ = runs.claim()
    ended = threading.Event()
    with ThreadLeaseKeeper(runs, interval_s=INTERVAL_S).hold(lease, lost=ended.set):
        runs.cancel("run-1")

        assert ended.wait(60.0)


def test_renewal_is_tried_again_when_the_database_is_away(clock: FixedClock) -> None:
    runs = Store(clock=clock)
    runs.add(a_request())
    lease, _ = runs.claim()
    runs.error = Unavailable("DATABASE_UNAVAILABLE")
    with ThreadLeaseKeeper(runs, interval_s=INTERVAL_S).hold(lease, lost=nobody_cares) as progress:
        progress("training")
        wait_until(lambda: runs.renewals > 3)
        runs.error = None
        wait_until(lambda: runs.get("run-1").progress == "training")


def test_bug_in_a_renewal_is_not_hidden(clock: FixedClock) -> None:
    runs = Store(clock=clock)
    runs.add(a_request())
    lease, _ = runs.claim()
    with ThreadLeaseKeeper(runs, interval_s=INTERVAL_S).hold(lease, lost=nobody_cares) as progress:
        progress("training")
        runs.error = RuntimeError("a bug")
        wait_until(lambda: keeper_threads() == [])
        with pytest.raises(RuntimeError, match="a bug"):
            progress("training")


def test_heartbeat_that_says_nothing_new_writes_nothing(clock: FixedClock) -> None:
    runs = Store(clock=clock)
    runs.add(a_request())
    lease, _ = runs.claim()
    with ThreadLeaseKeeper(runs, interval_s=3_600).hold(lease, lost=nobody_cares) as progress:
        for _ in range(5):
            progress("epoch 1")

    assert 1 == runs.renewals

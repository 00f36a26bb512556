# SPDX-License-Identifier: Apache-2.0
"""Load on a world: waves with repeats and late events, or steadily while something breaks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.world import RAW, RECORDS, Service, World

from headrace_kit.testing import wait_until

WAVES, WAVE_RECORDS = 6, 100
WAVE_S_MAX = 60.0
STEADY_RECORDS = 50
PRODUCE_S_MAX = 5.0
JOIN_S_MAX = 60.0


def waves(world: World, *services: Service, count: int = WAVES) -> None:
    """Each is taken in, by feature too if it is among these, before the next, while they live."""

    def taken_in() -> bool:
        folding = any(each.name == "feature" for each in services)
        stored = world.read_up("ingest", RAW)
        return stored and (not folding or world.read_up("feature", RECORDS))

    before: dict[str, bytes] = {}
    for _ in range(count):
        wave = world.new_orders(WAVE_RECORDS, late_share=0.02)
        world.produce(wave | dict(list(before.items())[:10]))
        wait_until(
            lambda: not all(s.running() for s in services) or taken_in(),
            timeout_s=WAVE_S_MAX,
        )
        before = wave


class Steady:
    """A client that goes on sending: what it is not sure of it sends again, under the same ids."""

    def __init__(self, world: World) -> None:
        self._world, self._stop = world, threading.Event()
        self.sent = 0
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name="load")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(JOIN_S_MAX)
        assert self.failure is None, self.failure
        assert not self._thread.is_alive()

    def wait_sent(self, more: int) -> None:
        """Until so many more are accepted."""
        wanted = self.sent + more
        wait_until(lambda: self.sent >= wanted or self.failure is not None, timeout_s=JOIN_S_MAX)

    def _guarded(self) -> None:
        try:
            self._send()
        except BaseException as err:  # noqa: BLE001 - told to the test when it stops the load
            self.failure = err

    def _send(self) -> None:
        while not self._stop.is_set():
            batch = self._world.new_orders(STEADY_RECORDS, late_share=0.02)
            while not self._world.try_to_produce(batch, timeout_s=PRODUCE_S_MAX):
                if self._stop.is_set():
                    return
            self.sent += len(batch)
            self._stop.wait(0.02)


@contextmanager
def steady(world: World) -> Iterator[Steady]:
    """Load for the time of the block."""
    load = Steady(world)
    load.start()
    try:
        yield load
    finally:
        load.stop()

# SPDX-License-Identifier: Apache-2.0
"""Begins what comes, some ahead, while what was begun is finished in order.

A caller that streams need not wait for each answer, and holds a bounded share of what is scarce.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

LOOK_INTERVAL_S = 0.2
Request = TypeVar("Request")
Begun = TypeVar("Begun")
_END = object()


def pipelined(
    requests: Iterable[Request],
    begin: Callable[[Request], Begun],
    *,
    ahead_max: int,
    check: Callable[[], None],
) -> Iterator[Begun]:
    """What `begin` made of each request, in order; at most `ahead_max` are not done with.

    One is done with when the next is asked for. An error of `requests` or `begin` is raised behind
    what was begun before it. `check` is called before each begin and now and then: it may raise.
    """
    begun: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room, closed = threading.Semaphore(ahead_max), threading.Event()

    def begin_all() -> None:
        for request in requests:
            while not room.acquire(timeout=LOOK_INTERVAL_S):
                if closed.is_set():
                    return
            check()
            begun.put(begin(request))

    reader = ThreadPoolExecutor(1, "pipelined")
    reading = reader.submit(begin_all)
    reading.add_done_callback(lambda _: begun.put(_END))
    try:
        while (found := _next(begun, check)) is not _END:
            yield found
            room.release()
        reading.result()
    finally:
        closed.set()
        reader.shutdown(wait=False)


def _next(begun: queue.SimpleQueue[Any], check: Callable[[], None]) -> Any:
    while True:
        try:
            return begun.get(timeout=LOOK_INTERVAL_S)
        except queue.Empty:
            check()

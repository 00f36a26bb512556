# SPDX-License-Identifier: Apache-2.0
"""Threads for the handlers of a grpcio server.

The server wants to know of a handler that it is over, and nothing else: ThreadPoolExecutor makes a
Future with a lock of its own for that, twice as dear as what is needed (a bare echo answers a sixth
more calls by these threads).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import structlog

from headrace_kit.patience import be_patient

log = structlog.get_logger(__name__)


class CallPool(Executor):
    """At most `threads`, each started with a call that finds fewer.

    The server bounds the calls that wait. `patient_threads` for calls that come by the thousand:
    each wakes a thread twice, which took the core from the one that reads the network.
    """

    def __init__(self, threads: int, *, patient_threads: bool) -> None:
        self._threads_max, self._patient = threads, patient_threads
        self._threads: list[threading.Thread] = []
        self._waiting: SimpleQueue[_Work | None] = SimpleQueue()

    def submit(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Answers by `add_done_callback` alone. By one thread, as the server does."""
        submitted = _Work(partial(work, *args, **kwargs))
        self._waiting.put(submitted)
        if len(self._threads) < self._threads_max:
            name = f"grpc_{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._run, name=name, daemon=True))
            self._threads[-1].start()
        return submitted

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT002 - Executor's
        """The threads end when they have done what waits, or with `cancel_futures` without."""
        while cancel_futures:
            try:
                self._waiting.get_nowait()
            except Empty:
                break
        for _ in self._threads:
            self._waiting.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        if self._patient:
            be_patient()
        while (work := self._waiting.get()) is not None:
            work.run()
            del work  # what it answers is not kept until the next


class _Work:
    """One call of a handler, and who is to be told of its end."""

    __slots__ = ("_over", "_told", "_work")

    def __init__(self, work: Callable[[], object]) -> None:
        self._work, self._over = work, False
        self._told: list[Callable[[_Work], object]] = []

    def add_done_callback(self, told: Callable[[_Work], object]) -> None:
        self._told.append(told)
        if self._over:
            self._tell()

    def run(self) -> None:
        try:
            self._work()
        except Exception:  # the thread is for other calls, too
            log.exception("handler_failed")
        self._over = True
        self._tell()

    def _tell(self) -> None:
        """Each once: both threads may be here, and either takes it."""
        while self._told:
            try:
                told = self._told.pop()
            except IndexError:
                return
            told(self)

# SPDX-License-Identifier: Apache-2.0
"""From start to exit code: parts start in order, end in reverse, and a failed one ends the service.

Exit codes are those of sysexits.h: 0 stopped as asked, 69 something that is needed does not answer
(one line says what to do), 70 a bug; and 1 for an interpreter that stood still. The supervisor
starts the service again after 1, 69 and 70.

Live means progress: a loop that hangs in a call keeps its place in the group, for librdkafka sends
heartbeats on; so it makes the service dead to `/health/live`, and the process ends itself.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import NoReturn, Protocol, runtime_checkable

import structlog

from headrace.errors import HeadraceError, Unavailable
from headrace_kit import tracing
from headrace_kit.admin_http import AdminServer

EXIT_UNAVAILABLE = 69
EXIT_BUG = 70
STDERR = 2
# No honest round of a loop is longer: the waits in one are bounded by seconds (10 s for a delivery,
# 30 s for a statement, three tries of an archive), and Kafka itself takes the partitions away from
# a loop that has not polled for this long (max.poll.interval.ms).
TICK_AGE_S_MAX = 300.0
# A library that waits for good while it holds the interpreter's lock stops all threads, also the
# one that watches. Later than what that one would say, which tells more.
STANDSTILL_S_MAX = TICK_AGE_S_MAX + 30.0
WATCH_INTERVAL_S = 0.1
# Each time costs the end of a thread and the start of the next one.
STANDSTILL_ROUNDS = 100
# Of new containers, before the interpreter looks through them for cycles: those of the requests in
# flight were looked through, and kept, several times each with its 700.
YOUNG_CONTAINERS_MAX = 2_000
# For the spans of the last calls.
TRACES_S_MAX = 2.0

log = structlog.get_logger(__name__)


class Part(Protocol):
    """Something that runs beside the others: a loop, a server, a publisher."""

    def start(self) -> object:
        """Begin; returns when the part does its work."""

    def stop(self, timeout_s: float) -> None:
        """Finish what is in work and end; also after a start that failed."""

    def failed(self) -> BaseException | None:
        """Why the part ended by itself; None while all is well."""


@runtime_checkable
class LoopingPart(Part, Protocol):
    """A part that goes round, again and again, also when there is nothing to do."""

    def tick_age_s(self) -> float:
        """Seconds since a round began; 0.0 when none should."""


@runtime_checkable
class ListeningPart(Part, Protocol):
    """A part whose port is needed: known before the parts ahead of it take their time."""

    def check_port(self) -> None:
        """Raises Unavailable PORT_TAKEN."""


def run_service(
    name: str,
    parts: Sequence[Part],
    *,
    admin: AdminServer,
    on_ready: Callable[[bool], None] = lambda ready: None,
    stop_grace_s: float = 20.0,
) -> int:
    """Run until SIGTERM, SIGINT or a failed part; returns the exit code.

    `on_ready` is told each change of `admin.ready()`, e.g. `grpc_server.set_ready`.
    """
    service = _Service(name, [admin, *parts], admin, on_ready, stop_grace_s)
    handlers = {
        number: signal.signal(number, service.on_signal)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        return service.run()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class PartEnded(Exception):
    """A part that is processes of its own ended as one of them did: the service ends so, too."""

    def __init__(self, problem: str, exit_code: int) -> None:
        super().__init__(problem)
        self.exit_code = exit_code


class _Stopped(BaseException):
    """A signal came while the parts were starting."""


class _Service:
    def __init__(
        self,
        name: str,
        parts: Sequence[Part],
        admin: AdminServer,
        on_ready: Callable[[bool], None],
        stop_grace_s: float,
    ) -> None:
        self._name, self._parts, self._admin = name, parts, admin
        # Found once: a look at what a part can do takes longer than one at its clock.
        self._looping = [part for part in parts if isinstance(part, LoopingPart)]
        self._on_ready, self._grace_s = on_ready, stop_grace_s
        self._started: list[Part] = []
        self._starting = False
        self._stopping = threading.Event()

    def on_signal(self, number: int, _: object) -> None:
        self._stopping.set()
        if self._starting:
            raise _Stopped

    def run(self) -> int:
        try:
            code = self._start() or self._watch()
        finally:  # also when a bug ends the start
            faulthandler.cancel_dump_traceback_later()
            stopped = self._stop()
            tracing.stop(TRACES_S_MAX)
        return stopped or code

    def _start(self) -> int:
        self._starting = True
        log.info("service_starting")
        try:
            for part in self._parts:
                if isinstance(part, ListeningPart):
                    part.check_port()
            for part in self._parts:
                self._started.append(part)
                part.start()
            self._admin.open(lambda: self._stalled() is None)
            log.info("service_started")
        except _Stopped:
            log.info("service_stopped_while_starting")
        except Unavailable as err:
            sys.stderr.write(self._advice(err) + "\n")
            return EXIT_UNAVAILABLE
        finally:
            self._starting = False
        return 0

    def _advice(self, error: Unavailable) -> str:
        if error.reason == "BROKER_UNAVAILABLE":
            return (
                f"Kafka does not answer at {error.metadata.get('bootstrap')}. Start it with "
                f"`headrace up` or set {self._name.upper()}_KAFKA_BOOTSTRAP."
            )
        return str(error)

    def _watch(self) -> int:
        # Not while starting: a signal would raise in the midst of a finalizer, and be lost.
        _leave_to_itself_what_is_there()
        ready = False
        rounds = cycle(range(STANDSTILL_ROUNDS))
        while not self._stopping.wait(WATCH_INTERVAL_S):
            if next(rounds) == 0:
                _end_when_all_stands_still()
            for part in self._parts:
                failure = part.failed()
                if failure is not None:
                    return self._report(part, failure)
            if (stalled := self._stalled()) is not None:
                _end_at_once(stalled)
            if self._admin.ready() != ready:
                ready = not ready
                log.info("service_ready" if ready else "service_unready")
                self._on_ready(ready)
        return 0

    def _stalled(self) -> LoopingPart | None:
        return next((part for part in self._looping if part.tick_age_s() > TICK_AGE_S_MAX), None)

    def _report(self, part: Part, failure: BaseException) -> int:
        log.error("part_failed", part=type(part).__name__, error=repr(failure))
        if isinstance(failure, PartEnded):
            return failure.exit_code
        return EXIT_UNAVAILABLE if isinstance(failure, Unavailable) else EXIT_BUG

    def _stop(self) -> int:
        """End the parts that were started, the last one first; 70 if one did not end well."""
        self._admin.drain()
        self._on_ready(False)  # noqa: FBT003 - the callback has one argument
        deadline_s, code = time.monotonic() + self._grace_s, 0
        for part in reversed(self._started):
            try:
                part.stop(max(0.1, deadline_s - time.monotonic()))
            except (HeadraceError, PartEnded) as err:
                log.error("part_stop_failed", part=type(part).__name__, error=str(err))
                code = EXIT_BUG
        log.info("service_stopped")
        return code


def _leave_to_itself_what_is_there() -> None:
    """What a service has made by now it keeps; the search for cycles passes over it from here on.

    It went through all modules, classes and definitions every few thousand requests, and held every
    thread for a twentieth to a tenth of a second each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_CONTAINERS_MAX, *gc.get_threshold()[1:])


def _end_when_all_stands_still() -> None:
    """Unless this is called again in time; by a thread that needs no interpreter.

    It ends the process with 1, and all stacks in the log.
    """
    faulthandler.dump_traceback_later(STANDSTILL_S_MAX, exit=True, file=STDERR)


def _end_at_once(part: LoopingPart) -> NoReturn:
    """End the process as a kill would: stopping in order would wait for the part that hangs."""
    log.error("part_stalled", part=type(part).__name__, tick_age_s=part.tick_age_s())
    faulthandler.dump_traceback(STDERR, all_threads=True)  # where it hangs
    os._exit(EXIT_BUG)

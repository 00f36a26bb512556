# SPDX-License-Identifier: Apache-2.0
"""The consume loop: at least once, effects first, and no record can block a partition.

Where to start is what the handler's own store says, never the group's offset; that one is committed
after the effect and tells outsiders the lag. While a dependency is down the partitions are paused,
the same records are tried again with back-off, and polling goes on, so that the group stays whole.
An unknown error is a bug: the loop stops, and a restart begins at the same offset.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Protocol, runtime_checkable

import structlog

from headrace.errors import TOPIC_MISSING, Busy, HeadraceError, Unavailable
from headrace_kit import tracing
from headrace_kit.backoff import Backoff
from headrace_kit.dead_letters import dead_letter
from headrace_kit.gathered_topics import GatheredTopics
from headrace_kit.kafka import Partition, Publisher, Record, RecordBatch
from headrace_kit.part_thread import PartThread
from headrace_kit.reader import GroupReader
from headrace_kit.telemetry import counter, gauge

DEAD_LETTERS_IN_A_ROW_MAX = 1_000
RESTORING_INTERVAL_S = 0.25
SHARED_OUT_INTERVAL_S = 0.25
TRIES_BEFORE_UNREADY = 3
TROUBLES = "Missing topics, lost offsets, stopped topics, and what failed thrice in a row or more."
# A handler that stops a topic for this lets it go within moments, come what may.
MOMENTARY = "DEFINITION_AWAITED"

log = structlog.get_logger(__name__)


class Unfinished(Exception):
    """A handler did a part of the records: after a poll the same ones are handed over again."""


class TopicsAwaited(Exception):
    """A handler cannot do with records of these topics before others, which are missing, are there:
    it is asked for their positions then. The other records are handed over again.
    """

    def __init__(self, missing_by_topic: Mapping[str, str]) -> None:
        super().__init__(dict(missing_by_topic))
        self.missing_by_topic = missing_by_topic


class BatchHandler(Protocol):
    """What a service does with records; every method is called from the loop's thread."""

    def positions(self, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Next offset by partition, from where the effects are stored; absent = beginning.

        After Unavailable TOPIC_MISSING each topic is asked for by itself, and one of which it is
        raised again waits until the missing topic, which may be another one, is there.
        """

    def handle(self, records: RecordBatch) -> None:
        """Make the effects of the records durable; order holds within a partition.

        Raises Unfinished only where it came further, and knows what it did; TopicsAwaited where
        the effects on some topics wait for missing ones, and need not hold up the rest.
        """

    def idle(self) -> None:
        """Called when a poll brought nothing."""


@runtime_checkable
class GatheringHandler(BatchHandler, Protocol):
    """A handler that gathers several parts into one effect, durable after `handle` returned."""

    def durable(self) -> Mapping[Partition, int]:
        """Next offset by partition behind durable effects: what may be committed by now."""

    def drain(self, partitions: Sequence[Partition]) -> None:
        """Make durable what was gathered of these partitions, or forget it: they are given up.

        Raises neither Busy nor Unavailable: there is no later; the next owner reads again.
        """

    def stopped(self) -> Mapping[str, HeadraceError]:
        """The topics that must not be read now, and why: asked after each call of the others.

        What was read of them and not handled is forgotten. A topic that is no longer stopped is
        read on from where `positions` says.
        """


@runtime_checkable
class PositionedHandler(BatchHandler, Protocol):
    """A handler that stores its positions itself, those behind dead letters too."""

    def set_aside(self, record: Record) -> None:
        """The record's dead letter is delivered: store the position behind it.

        Without this the newest record would be set aside, or suddenly taken, at each start.
        """


@runtime_checkable
class RestoringHandler(BatchHandler, Protocol):
    """A handler that fetches the state of a partition first, beside the work on the others."""

    def restoring(self) -> Collection[Partition]:
        """Those of the last `positions` whose state is still fetched.

        They are not read, and asked for again soon.
        """

    def forget(self, partitions: Collection[Partition]) -> None:
        """These are another member's now. Not called when the loop ends: they may come back."""


@runtime_checkable
class FollowingHandler(BatchHandler, Protocol):
    """A handler whose positions are tied to the ids of the topics that they are of."""

    def follow_topics(self, topic_ids: Mapping[str, str]) -> None:
        """Called before `positions`, with the ids of their topics.

        A topic with another id than before was made again: the positions of the old one are none.
        """


class ConsumeLoop:
    """A consumer group member with its own thread; a Part."""

    def __init__(
        self,
        *,
        bootstrap: str,
        group: str,
        handler: BatchHandler,
        dead_letters: Publisher,
        service: str,
        client_id: str | None = None,
        batch_records_max: int = 10_000,
        batch_wait_s: float = 0.05,
        more_to_come: Callable[[], bool] = lambda: False,
    ) -> None:
        """`client_id`: how the coordinator names this member to who asks; default the group's.

        `more_to_come`: whether other topics will be read soon; new ones wait for them a while.
        """
        self._group, self._service = group, service
        self._handler, self._dead_letters = handler, dead_letters
        self._gathering = handler if isinstance(handler, GatheringHandler) else None
        self._positioned = handler if isinstance(handler, PositionedHandler) else None
        self._restorer = handler if isinstance(handler, RestoringHandler) else None
        self._follower = handler if isinstance(handler, FollowingHandler) else None
        self._records_max, self._wait_s = batch_records_max, batch_wait_s
        self._reader = GroupReader(bootstrap, group, owner=self, client_id=client_id)
        self._topics = GatheredTopics(more_to_come=more_to_come)
        self._pending: deque[RecordBatch] = deque()
        self._retry = Backoff()
        self._failure: HeadraceError | None = None  # of the last try
        self._restoring: frozenset[Partition] = frozenset()
        self._let_go: frozenset[Partition] = frozenset()  # held before, and not placed again yet
        self._asked_s = self._looked_s = 0.0
        self._shared_out = self._warmed = False
        self._apart = False  # each topic is placed by itself: one of them waits for a missing one
        self._dead_in_a_row = 0
        self._stopped: Mapping[str, HeadraceError] = {}
        self._stopping, self._repositioning = threading.Event(), threading.Event()
        self._thread = PartThread(f"consume-{group}", self._run)
        self._handled = counter(service, "consumed_records_total", "Records handled.", "topic")
        self._dead = counter(service, "dead_letters_total", "Records set aside.", "reason")
        self._troubles = gauge(service, "consume_troubles", TROUBLES)

    def subscribe(self, topics: Collection[str]) -> None:
        """Read exactly these topics from now on; may be called at any time, by any thread.

        Calls that follow one another closely change what is read once.
        """
        self._topics.want(topics)

    def reposition(self) -> None:
        """Ask the handler for its positions again and read on from there; at any time, any thread.

        Until the effects have come as far as before, the group's offsets show the lag.
        """
        self._repositioning.set()

    def start(self) -> None:
        """Join the group; raises Unavailable BROKER_UNAVAILABLE after 30 s without an answer."""
        self._reader.open()
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop polling, finish the batch in work, commit, leave the group."""
        self._stopping.set()
        if self._thread.started:
            self._thread.join(timeout_s)
        else:
            self._reader.close()

    def failed(self) -> BaseException | None:
        return self._thread.failure

    def tick_age_s(self) -> float:
        return self._thread.tick_age_s()

    def ready(self) -> bool:
        """Assigned, placed, and no trouble that may pass: all topics there, no long back-off.

        What is restored later, because another member gave it up or its topic is new, takes nothing
        from the rest; nor does a topic that the handler has stopped until somebody mends it, or for
        a moment.
        """
        running = self._thread.running and not self._stopping.is_set()
        besides = self._restoring | self._let_go if self._warmed else frozenset()
        wanted = self._topics.wanted
        settled = self._reader.settled(wanted, besides) and not self._repositioning.is_set()
        well = not self._reader.troubles() and self.waits() is None
        whole = self._shared_out or not wanted
        return running and whole and settled and well and not self._waiting()

    def troubles(self) -> list[str]:
        """What may not mend itself, e.g. `TOPIC_MISSING raw.flights.departed.v1`, and `waits`."""
        stopped = [f"{topic}: {err}" for topic, err in self._held_back()]
        waits = self.waits()
        return self._reader.troubles() + stopped + ([] if waits is None else [str(waits)])

    def waits(self) -> HeadraceError | None:
        """Why nothing is done now: what failed so often in a row that we are not ready."""
        return self._failure if self._retry.tries >= TRIES_BEFORE_UNREADY else None

    def _waiting(self) -> bool:
        """Whether the handler has stopped a topic until something else is mended."""
        held = [err for _, err in self._held_back() if err.reason != MOMENTARY]
        return any(isinstance(err, Unavailable) for err in held)

    def _held_back(self) -> list[tuple[str, HeadraceError]]:
        held = {partition.topic for partition in self._reader.held()}
        return [(topic, err) for topic, err in self._stopped.items() if topic in held]

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._thread.tick()
                self._tick()
            self.finish(self._reader.placed())
        finally:
            self._gathering = None  # it is drained, or met a bug and must store nothing more
            self._restorer = None
            self._reader.close()

    def _tick(self) -> None:
        self._reader.subscribe(self._topics.choose())
        self._reader.look_for_missing()
        self._reader.look_for_made_again()
        if self._repositioning.is_set():
            self._unplace()
        wait_s = self._wait_s
        if self._pending or self._due() or self._retry.left_s():
            self._reader.pause()
            wait_s = min(wait_s, self._retry.left_s())
        else:
            self._reader.resume()
        if records := self._reader.read(self._records_max, wait_s):
            self._pending.append(records)
        if not self._retry.left_s():
            self._work()
        self._look_whole()
        self._hold()
        self._commit()
        self._troubles.set(len(self.troubles()))

    def _work(self) -> None:
        """One step: place what was assigned, handle one part, or let the handler be idle."""
        try:
            if due := self._due():
                self._place(due)
            elif self._pending:
                self._handle(self._pending[0])
            else:
                self._handler.idle()
        except Unfinished:
            self._retry.succeeded()
        except TopicsAwaited as err:
            for topic, missing in err.missing_by_topic.items():
                self._reader.put_off(topic, missing)
                self._drop(self._reader.put_back(topic))
            self._retry.succeeded()
        except (Busy, Unavailable) as err:
            self._failure = err
            delay_s = self._retry.failed(err.retry_delay_s)
            log.warning("consume_waits", group=self._group, error=str(err), delay_s=delay_s)
        else:
            self._retry.succeeded()

    def _due(self) -> list[Partition]:
        """The partitions that the handler is to be asked for now."""
        unplaced = self._reader.unplaced()
        if time.monotonic() - self._asked_s >= RESTORING_INTERVAL_S:
            return unplaced
        return [each for each in unplaced if each not in self._restoring]

    def _place(self, due: Collection[Partition]) -> None:
        """One question for all, unless one of them waits for a topic that is missing."""
        for share in _by_topic(due) if self._apart else [due]:
            try:
                self._place_together(share)
            except Unavailable as err:
                if err.reason != TOPIC_MISSING:
                    raise
                self._put_off(share, err)
        self._apart = self._apart and bool(self._reader.unplaced())

    def _put_off(self, share: Collection[Partition], err: Unavailable) -> None:
        """What waits for a missing topic keeps nothing else from being placed."""
        topic, *others = {each.topic for each in share}
        if others:
            self._apart = True
        else:
            self._reader.put_off(topic, str(err.metadata.get("topic", topic)))

    def _place_together(self, due: Collection[Partition]) -> None:
        if self._follower is not None:
            self._follower.follow_topics(self._reader.identify({each.topic for each in due}))
        positions = self._handler.positions(sorted(due))
        self._asked_s = time.monotonic()
        restoring = self._restorer.restoring() if self._restorer is not None else ()
        self._restoring = (self._restoring - {*due}) | {*restoring}
        self._hold()
        settled = [each for each in self._reader.unplaced() if each not in self._restoring]
        self._reader.place([each for each in settled if each in due], positions)

    def _look_whole(self) -> None:
        """Whether the group has given out all topics, and we have placed a first share of them.

        What comes before that is waited for; what comes later takes nothing from the rest.
        """
        wanted = self._topics.wanted
        if self._warmed or not wanted:
            return
        if not self._reader.settled(wanted) or self._reader.troubles():
            return
        now_s = time.monotonic()
        if not self._shared_out and now_s - self._looked_s >= SHARED_OUT_INTERVAL_S:
            self._looked_s = now_s
            self._shared_out = self._reader.shared_out(wanted)
        self._warmed = self._shared_out and bool(self._reader.placed())

    def _hold(self) -> None:
        """Read nothing of what the handler has stopped."""
        if self._gathering is None:
            return
        self._stopped = self._gathering.stopped()
        # Before it is unplaced: another thread may ask meanwhile whether we are ready.
        self._let_go |= {each for each in self._reader.held() if each.topic not in self._stopped}
        self.forget(self._reader.hold(self._stopped))
        self._let_go &= {*self._reader.unplaced()}

    def _handle(self, records: RecordBatch) -> None:
        """Handle the first part that is pending; a refused part is halved until one is left."""
        try:
            with tracing.reading(records, self._group):
                self._handler.handle(records)
        except (Busy, Unavailable):
            raise
        except HeadraceError as err:
            if len(records) > 1:
                middle = len(records) // 2
                self._pending[0] = records[middle:]
                self._pending.appendleft(records[:middle])
                return
            self._set_aside(records[0], err)
        else:
            self._dead_in_a_row = 0
        self._pending.popleft()
        self._done(records)

    def _set_aside(self, record: Record, error: HeadraceError) -> None:
        letter = dead_letter(record, reason=error.reason, service=self._service)
        self._dead_letters.publish([letter])
        if self._positioned is not None:
            self._positioned.set_aside(record)
        self._dead.labels(error.reason).inc()
        self._dead_in_a_row += 1
        if self._dead_in_a_row >= DEAD_LETTERS_IN_A_ROW_MAX:
            raise RuntimeError(f"{self._dead_in_a_row} dead letters in a row: a bad deploy?")

    def _done(self, records: RecordBatch) -> None:
        for partition, first, end in records.runs:
            self._handled.labels(partition.topic).inc(end - first)
        if self._gathering is None:
            self._reader.done(records.next_by_partition())

    def _commit(self) -> None:
        if self._gathering is not None:
            self._reader.done(self._gathering.durable())
        self._reader.commit()

    def _unplace(self) -> None:
        self._repositioning.clear()
        self._pending.clear()
        self.finish(self._reader.placed())
        self._reader.unplace()

    def finish(self, partitions: Sequence[Partition]) -> None:
        """Called by the reader before it gives partitions up."""
        if self._gathering is not None and partitions:
            self._gathering.drain(partitions)
            self._reader.done(self._gathering.durable())

    def forget(self, partitions: Collection[Partition]) -> None:
        """Called by the reader when partitions are another member's."""
        if not partitions:
            return
        self._restoring -= {*partitions}
        if self._restorer is not None:
            self._restorer.forget(partitions)
        self._drop(partitions)

    def _drop(self, partitions: Collection[Partition]) -> None:
        """What was read of these and not handled."""
        kept = [part.without(partitions) for part in self._pending]
        self._pending = deque(part for part in kept if part)


def _by_topic(partitions: Collection[Partition]) -> list[list[Partition]]:
    ordered = sorted(partitions)
    return [list(share) for _, share in groupby(ordered, key=attrgetter("topic"))]

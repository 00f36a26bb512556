# SPDX-License-Identifier: Apache-2.0
"""When a moment may be judged: everything before it read, and the predictions folded."""

import pytest

from headrace import topics
from headrace.errors import Unavailable
from headrace_kit.kafka import Partition
from headrace_kit.state_store import MemoryStateStore
from headrace_kit.testing import FixedClock
from headrace_monitor import testing
from headrace_monitor.domain import layout
from headrace_monitor.domain.progress import Window
from headrace_monitor.handlers.advance import Advance, StreamRecord, note_known_times
from headrace_monitor.handlers.batch import Batch
from headrace_monitor.handlers.forms import WINDOW
from headrace_monitor.handlers.turn import take_turn
from headrace_monitor.testing import at_us

SCENE = testing.Scene()

SCHEDULED = topics.INGEST_RECORDS.of(SCENE.scheduled)
ARRIVED = topics.INGEST_RECORDS.of(SCENE.arrived)
PREDICTIONS = topics.INFERENCE_PREDICTIONS.of("delay")


class Broker:
    """Two partitions of each stream and one of predictions; a test sets the ends."""

    def __init__(self) -> None:
        streams = (SCHEDULED, ARRIVED)
        self.ends = {Partition(topic, number): 1 for topic in streams for number in (0, 1)}
        self.ends |= {
            Partition(PREDICTIONS, 0): 7,
            Partition(topics.REGISTRY_MODEL_VERSIONS.name, 0): 0,
        }
        self.asked, self.missing = 0, False

    def __call__(self, wanted):
        self.asked += 1
        if self.missing:
            raise Unavailable("TOPIC_MISSING", topic=PREDICTIONS)
        return dict(self.ends)


class Advancing:
    """One monitor with a window that ends at hour 1; `read` is the hour of each partition."""

    def __init__(self) -> None:
        self.broker, self.store = Broker(), MemoryStateStore()
        self.clock = FixedClock()
        self.monotonic_s = 0.0
        self.advance = Advance(
            end_offsets=self.broker, clock=self.clock, monotonic_s=lambda: self.monotonic_s
        )
        batch = Batch(self.store)
        take_turn(SCENE.a_watch(), batch).end()  # it was there before any record
        batch.commit({})
        self.read(dict.fromkeys(self.streams(), 0.5))
        batch = Batch(self.store)
        batch.write(WINDOW, layout.window(b"delay", at_us(1)), Window(1, 1))
        batch.commit({})

    def streams(self) -> list[Partition]:
        return [each for each in self.broker.ends if each.topic in (SCHEDULED, ARRIVED)]

    def read(self, hours) -> None:
        batch = Batch(self.store)
        note_known_times([StreamRecord(p, at_us(h)) for p, h in hours.items()], batch=batch)
        batch.commit({})

    def judged(self, folded: int = 7) -> bool:
        """Whether the drift of the window is judged by now."""
        batch = Batch(self.store)
        turn = take_turn(SCENE.a_watch(), batch)
        self.advance(turn, {Partition(PREDICTIONS, 0): folded})
        turn.end()
        batch.commit({})
        self.absent_until_us = turn.progress.absent_until_us
        return turn.progress.drift_until_us == at_us(1)


@pytest.fixture
def advancing() -> Advancing:
    return Advancing()


def test_window_waits_for_the_slowest_partition(advancing):
    *most, slowest = advancing.streams()
    advancing.read(dict.fromkeys(most, 5))
    advancing.read({slowest: 1})
    assert not advancing.judged()

    advancing.read({slowest: 1.0001})
    assert advancing.judged()


def test_window_waits_for_a_partition_that_has_data_and_was_not_read(advancing):
    advancing.read(dict.fromkeys(advancing.streams(), 5))
    late = Partition(ARRIVED, 2)
    advancing.broker.ends[late] = 1
    assert not advancing.judged()

    advancing.read({late: 5})
    assert advancing.judged()


def test_partition_without_data_is_not_waited_for(advancing):
    advancing.read(dict.fromkeys(advancing.streams(), 5))
    advancing.broker.ends[Partition(ARRIVED, 2)] = 0

    assert advancing.judged()


def test_window_waits_for_the_predictions_that_were_there_when_time_passed(advancing):
    advancing.read(dict.fromkeys(advancing.streams(), 2))
    assert not advancing.judged(folded=6)

    advancing.broker.ends[Partition(PREDICTIONS, 0)] = 1_000  # these came later
    assert advancing.judged(folded=7)


def test_monitor_whose_topic_is_missing_waits_and_stops_nobody(advancing):
    advancing.read(dict.fromkeys(advancing.streams(), 2))
    advancing.broker.missing = True
    for _ in range(5):
        assert not advancing.judged()
    assert 1 == advancing.broker.asked

    advancing.broker.missing = False
    advancing.clock.advance(-3_600_000_000)  # the machine's clock is put back
    advancing.monotonic_s += 1.0
    assert advancing.judged()


def test_ends_of_a_topic_that_is_made_again_are_waited_for_no_more(advancing):
    advancing.read(dict.fromkeys(advancing.streams(), 2))
    assert not advancing.judged(folded=6)

    advancing.broker.ends[Partition(PREDICTIONS, 0)] = 3
    advancing.advance.ask_again()
    assert advancing.judged(folded=3)


def test_absence_that_was_decided_stays_decided_when_a_stream_begins_again(advancing):
    advancing.read(dict.fromkeys(advancing.streams(), 2))
    assert not advancing.judged(folded=6)
    assert at_us(2) == advancing.absent_until_us

    marks = {each: layout.mark(*each) for each in advancing.streams() if each.topic == ARRIVED}
    advancing.store.commit({}, marks.values(), {})
    advancing.read(dict.fromkeys(marks, 1.5))
    assert not advancing.judged(folded=6)
    assert at_us(2) == advancing.absent_until_us


def test_broker_is_asked_once_for_a_moment(advancing):
    advancing.read(dict.fromkeys(advancing.streams(), 2))
    for _ in range(5):
        advancing.judged(folded=6)

    assert 1 == advancing.broker.asked


def test_nothing_is_asked_while_nothing_is_due(advancing):
    advancing.judged()
    asked = advancing.broker.asked
    for hour in (0.6, 0.7, 0.8):
        advancing.read(dict.fromkeys(advancing.streams(), hour))
        assert not advancing.judged()

    assert asked == advancing.broker.asked


def test_known_times_never_go_back_within_a_partition():
    batch = Batch(MemoryStateStore())
    one, two = Partition(ARRIVED, 0), Partition(ARRIVED, 1)
    records = [(one, 3), (two, 1), (one, 2), (one, 4), (two, 2)]

    known = note_known_times([StreamRecord(p, us) for p, us in records], batch=batch)
    assert [3, 1, 3, 4, 2] == known
    assert [4] == note_known_times([StreamRecord(one, 1)], batch=batch)

# SPDX-License-Identifier: Apache-2.0
"""The log behind the answers: many rows a record, order by key, a bound, and gaps that are told."""

import errno
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from headrace import topics
from headrace.errors import Busy, Invalid, Unavailable
from headrace.inference.v1 import inference_events_pb2 as pb
from headrace.prediction_log import logged_predictions
from headrace_inference.adapters import kafka_prediction_log, prediction_backlogs
from headrace_inference.adapters.answered_counts import AnsweredCounts
from headrace_inference.adapters.kafka_prediction_log import KafkaPredictionLog, RememberedCounts
from headrace_inference.adapters.prediction_backlogs import OWN_FAILURES_MAX
from headrace_inference.domain.prediction import PredictionIds, Shadow, id_base
from headrace_inference.domain.request import Tensor
from headrace_inference.testing import a_prediction, a_tensor
from headrace_kit import backoff
from headrace_kit.key_partitions import key_partitions
from headrace_kit.testing import MemoryPublisher, a_traceparent, recorded_spans, wait_until


class Desk:
    """A log on a memory publisher."""

    def __init__(self, folder, publisher=None, **bounds):
        self.publisher, self.counts = publisher or MemoryPublisher(), AnsweredCounts(folder)
        self.topics_missing, self.fails, self.reason = False, "", "DELIVERY_UNKNOWN"
        self.asked, self.forgotten = [], []
        self.log = KafkaPredictionLog(self.publisher, partitions=self, counts=self.counts, **bounds)

    def forget(self, topic):
        self.forgotten.append(topic)

    def __call__(self, topic):
        self.asked.append(topic)
        if self.topics_missing:
            raise Unavailable("TOPIC_MISSING", topic=topic)
        if self.fails and self.fails in topic:
            raise Unavailable(self.reason, topic=topic)
        return 4

    def append(self, *predictions):
        for prediction in predictions:
            self.log.append(prediction)

    def records(self):
        self.log.flush()
        return [pb.PredictionsMade.FromString(m.value) for m in self.publisher.published]

    def rows(self):
        self.log.flush()
        return [row for m in self.publisher.published for row in logged_predictions(m.value)]

    def scores(self, endpoint):
        """Those that were written, in their order."""
        topic = topics.INFERENCE_PREDICTIONS.of(endpoint)
        values = [m.value for m in self.publisher.published if m.topic == topic]
        return [row.score for value in values for row in logged_predictions(value)]

    def give(self, endpoint, *scores):
        for score in scores:
            self.append(a_prediction("UA-1", endpoint=endpoint, id=str(score), scores=[score]))


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def logged_bare():
    return REGISTRY.get_sample_value("headrace_inference_log_bare_rows_total") or 0.0


def lost(reason):
    name = "headrace_inference_log_lost_rows_total"
    return REGISTRY.get_sample_value(name, {"reason": reason}) or 0.0


def test_rows_of_many_requests_lie_in_one_record_for_each_partition(desk):
    for number in range(100):
        desk.append(a_prediction(f"UA-{number}", id=str(number)))

    assert 4 == len(desk.records())
    assert {f"UA-{number}" for number in range(100)} == {row.entity_key for row in desk.rows()}


def test_row_lies_in_the_partition_of_its_entity_key_or_of_its_request(desk):
    desk.append(a_prediction("UA-1", "", "UA-2", ""))
    desk.log.flush()

    for message in desk.publisher.published:
        for row in logged_predictions(message.value):
            key = (row.entity_key or row.prediction_id[:24]).encode()
            assert key_partitions([key], 4)[0] == message.partition


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=1, max_size=9), max_size=9))
def test_every_row_comes_back_once_with_its_own_id_and_values(tmp_path_factory, requests):
    desk, expected = Desk(tmp_path_factory.mktemp("log")), {}
    for number, keys in enumerate(requests):
        scores = [number * 10.0 + row for row in range(len(keys))]
        asked = a_prediction(*keys, id=str(number), scores=scores)
        moments = enumerate(zip(asked.prediction_ids, keys, scores, strict=True))
        expected |= {id_: (key, score, row) for row, (id_, key, score) in moments}
        desk.append(asked if any(keys) else replace(asked, entity_keys=()))

    found = [(row.prediction_id, (row.entity_key, row.score, row.as_of_us)) for row in desk.rows()]
    assert len(expected) == len(found)
    assert expected == dict(found)


def test_rows_of_long_requests_that_lie_apart_keep_their_values(desk):
    ids = PredictionIds([id_base(str(n), "delay") for n in range(20)], [64] * 20)
    scores = list(map(float, range(ids.count)))
    asked = a_prediction(*[""] * ids.count, scores=scores)
    moments = np.full(ids.count, 5)
    desk.append(replace(asked, entity_keys=(), as_of_us=moments, ids=ids))

    found = {row.prediction_id: row.score for row in desk.rows()}
    assert dict(zip(ids.each(), scores, strict=True)) == found


def test_log_that_rests_is_woken_by_a_row_and_by_its_end(desk, monkeypatch):
    monkeypatch.setattr(kafka_prediction_log, "TICK_INTERVAL_S", 3_600.0)
    desk.log.start()
    for score in (1.0, 2.0):
        wait_until(lambda: desk.log._resting)
        desk.give("delay", score)
        wait_until(lambda score=score: score in desk.scores("delay"))
    wait_until(lambda: desk.log._resting)

    desk.log.stop(60.0)

    assert not desk.log._thread.running


def test_rows_of_a_request_without_keys_are_one_run(desk):
    asked = replace(a_prediction(*[""] * 64), entity_keys=(), as_of_us=np.full(64, 5))
    desk.append(asked)

    (record,) = desk.records()
    assert ([64], [5]) == (list(record.run_rows), list(record.as_of_us))
    assert asked.prediction_ids == [row.prediction_id for row in desk.rows()]


def test_rows_of_an_entity_stay_in_order(desk):
    for number in range(50):
        desk.append(a_prediction("UA-1", "UA-2", id=str(number), scores=[number, -number]))
        if number % 7 == 0:
            desk.log.flush()

    by_key = {"UA-1": [], "UA-2": []}
    for row in desk.rows():
        by_key[row.entity_key].append(row.score)
    assert {"UA-1": [float(n) for n in range(50)], "UA-2": [-float(n) for n in range(50)]} == by_key


def test_count_goes_on_while_no_file_descriptor_is_left(tmp_path, monkeypatch):
    counts, opened, no_more = AnsweredCounts(tmp_path), Path.open, OSError(errno.EMFILE, "full")

    def fails(*_, **__):
        raise no_more

    monkeypatch.setattr(Path, "open", fails)
    counts.add("delay", 3)
    counts.add("delay", 4)
    with pytest.raises(OSError, match="full"):
        counts.read("delay")

    monkeypatch.setattr(Path, "open", opened)
    counts.add("delay", 5)
    assert 12 == counts.read("delay")
    assert 12 == AnsweredCounts(tmp_path).read("delay")


@pytest.mark.parametrize(
    "failing",
    [
        lambda desk: (desk.counts, desk.counts.read),
        lambda desk: (desk.publisher, desk.publisher.send),
        lambda _: (kafka_prediction_log.tracing, kafka_prediction_log.tracing.write_span),
    ],
    ids=["count", "publisher", "span"],
)
def test_log_goes_on_once_there_are_file_descriptors_again(desk, monkeypatch, failing):
    full = iter([OSError(errno.EMFILE, "full")])

    def once(of, call):
        def asked(*arguments):
            for error in full:
                raise error
            return call(*arguments)

        monkeypatch.setattr(of, call.__name__, asked)

    once(*failing(desk))
    desk.give("delay", 1.0)
    desk.log.start()

    wait_until(lambda: desk.scores("delay") == [1.0])
    assert desk.log.failed() is None
    desk.log.stop(5.0)


def test_record_names_one_version(desk):
    desk.append(a_prediction("UA-1", version=1), a_prediction("UA-1", version=2, id="s"))

    records = desk.records()
    assert [1, 2] == [record.version for record in records]
    assert [1, 1] == [sum(record.run_rows) for record in records]


def test_each_row_keeps_its_own_columns(desk):
    shadow = Shadow(9, {"score": a_tensor("score", "FP32", [5.0, 6.0])})
    desk.append(a_prediction("UA-1", "UA-2", scores=[0.5, 0.25], shadow=shadow))

    found = {row.entity_key: row for row in desk.rows()}
    assert (0.5, 9, 5.0, 0) == seen(found["UA-1"])
    assert (0.25, 9, 6.0, 1) == seen(found["UA-2"])
    assert (1.0, 1.0, 1.0) == found["UA-2"].features


def seen(row):
    return row.score, row.shadow_version, row.shadow_score, row.as_of_us


def test_text_and_other_tensors_are_logged_row_by_row(desk):
    texts = Tensor("x", "BYTES", (3, 2), [b"a", b"b", b"c", b"d", b"e", b"f"])
    answered = a_prediction("k1", "k2", "k3")
    desk.append(tensors(answered, {"x": texts}, {"y": a_tensor("y", "INT8", [[1], [2], [3]])}))

    found = {}
    for record in desk.records():
        x, y = record.inputs[0], record.outputs[0]
        assert (len(record.entity_keys), 2) == tuple(x.shape)
        for row, key in enumerate(record.entity_keys):
            found[key] = x.contents[row * 10 : row * 10 + 10], y.contents[row]
    assert (b"\1\0\0\0c\1\0\0\0d", 2) == found["k2"]


def tensors(prediction, inputs, outputs):
    return replace(prediction, inputs=inputs, outputs=outputs)


def test_request_to_a_model_without_rows_is_a_record_of_its_own(desk):
    for number in (2, 3):
        steps = a_tensor("x", "FP32", np.zeros((number, 2)))
        desk.append(tensors(a_prediction("", id=str(number)), {"x": steps}, {"y": steps}))

    shapes = [tuple(record.inputs[0].shape) for record in desk.records()]
    assert [(2, 2), (3, 2)] == sorted(shapes)


def test_row_too_large_for_a_record_is_logged_without_its_inputs(desk):
    before = logged_bare()
    desk.append(a_prediction("UA-1", features=kafka_prediction_log.RECORD_BYTES_MAX))

    (row,) = desk.rows()
    assert ((), 0.0) == (row.features, row.score)
    assert 1 == logged_bare() - before


def test_row_that_no_record_takes_is_lost_alone(desk):
    before, bare = lost("TOO_LARGE"), logged_bare()
    texts = [b"x", b"x" * (1 << 20), b"x"]
    outputs = {"score": a_tensor("score", "FP32", [1.0, 2.0, 3.0])}
    outputs["text"] = Tensor("text", "BYTES", (3,), texts)
    desk.append(tensors(a_prediction("UA-1", "UA-1", "UA-1"), {}, outputs))

    assert [1.0, 3.0] == [row.score for row in desk.rows()]
    assert (1, 0) == (lost("TOO_LARGE") - before, logged_bare() - bare)


def test_rows_that_their_topic_does_not_take_are_lost_and_told_by_the_next_record(desk):
    before = lost("TOO_LARGE")
    desk.publisher.errors.append(Invalid("TOO_LARGE"))
    desk.append(a_prediction("UA-1", "UA-1"))
    desk.log.flush()
    desk.append(a_prediction("UA-1"))

    assert [3] == [row.rows_answered for row in desk.rows()]
    assert 2 == lost("TOO_LARGE") - before


def test_large_row_costs_its_neighbours_no_inputs(desk):
    texts = Tensor("x", "BYTES", (3,), [b"a", b"x" * (1 << 20), b"c"])
    desk.append(tensors(a_prediction("k", "k", "k"), {"x": texts}, a_prediction(*"kkk").outputs))

    found = [(sum(each.run_rows), len(each.inputs)) for each in desk.records()]
    assert [(1, 1), (1, 0), (1, 1)] == found


def test_records_stay_below_their_bound(desk):
    desk.append(a_prediction(*["UA-1"] * 1_000, features=1_000))
    desk.log.flush()

    sizes = [len(message.value) for message in desk.publisher.published]
    assert 1_000 == len(desk.rows())
    assert max(sizes) < kafka_prediction_log.RECORD_BYTES_MAX * 1.1


def test_what_does_not_fit_is_counted_and_told_by_the_next_record(tmp_path):
    desk, before = Desk(tmp_path, pending_bytes_max=1_000), lost("QUEUE_FULL")

    desk.append(a_prediction("UA-1", id="1"), a_prediction(*["UA-2"] * 9, id="2"))

    (record,) = desk.records()
    assert (["UA-1"], 10) == (list(record.entity_keys), record.rows_answered)
    assert 9 == lost("QUEUE_FULL") - before


def test_rows_that_kafka_does_not_confirm_are_written_again_in_their_order(desk):
    before = lost("DELIVERY_UNKNOWN")
    desk.publisher.errors += [Unavailable("DELIVERY_UNKNOWN"), Busy("QUEUE_FULL")]
    desk.append(a_prediction("UA-1", id="1", scores=[1.0]))
    assert [] == desk.rows()
    desk.append(a_prediction("UA-1", id="2", scores=[2.0]))
    assert [] == desk.rows()

    assert [(1.0, 2), (2.0, 2)] == [(row.score, row.rows_answered) for row in desk.rows()]
    assert 0 == lost("DELIVERY_UNKNOWN") - before


def test_rows_that_wait_for_kafka_count_into_the_bound(tmp_path):
    desk, before = Desk(tmp_path, pending_bytes_max=1_000), lost("QUEUE_FULL")
    desk.publisher.errors += [Unavailable("DELIVERY_UNKNOWN")]
    desk.append(a_prediction("UA-1", id="1"))
    assert [] == desk.rows()

    desk.append(a_prediction(*["UA-2"] * 9, id="2"))
    assert 9 == lost("QUEUE_FULL") - before
    assert [10] == [row.rows_answered for row in desk.rows()]

    desk.append(a_prediction("UA-3", id="3"))
    assert {"UA-1", "UA-3"} == {row.entity_key for row in desk.rows()}


def test_topic_in_trouble_takes_the_place_of_no_other_endpoints_rows(desk):
    before = lost("DELIVERY_UNKNOWN")
    desk.fails = "broken"
    for number in range(OWN_FAILURES_MAX):
        desk.append(a_prediction("UA-1", endpoint="broken", id=str(number)))
        desk.append(a_prediction("UA-1", id=str(number)))
        desk.log.flush()

    assert OWN_FAILURES_MAX == lost("DELIVERY_UNKNOWN") - before
    assert OWN_FAILURES_MAX == len(desk.rows())


def test_outage_that_one_endpoint_outlasts_by_a_moment_loses_nothing(desk):
    before = lost("DELIVERY_UNKNOWN")
    desk.append(a_prediction("UA-1", endpoint="alpha"), a_prediction("UA-1", endpoint="beta"))
    desk.fails = "predictions"
    for _ in range(OWN_FAILURES_MAX + 1):
        desk.log.flush()
    desk.fails = "beta"
    assert 1 == len(desk.rows())
    desk.fails = ""

    assert 2 == len(desk.rows())
    assert 0 == lost("DELIVERY_UNKNOWN") - before


def test_partitions_of_a_topic_in_trouble_are_asked_for_anew(desk):
    """It may have been made again with fewer."""
    desk.fails, desk.reason = "broken", "TOPIC_MISSING"
    desk.give("broken", 0.0)
    desk.give("delay", 0.0)
    desk.log.flush()

    assert [topics.INFERENCE_PREDICTIONS.of("broken")] == desk.forgotten


def test_partitions_are_remembered_until_something_is_wrong_with_the_topic():
    told = {"a": 4, "b": 1}
    counts = RememberedCounts(lambda wanted: {each: told[each] for each in wanted if each in told})
    assert (4, 1) == (counts("a"), counts("b"))

    told |= {"a": 2, "b": 3}
    assert (4, 1) == (counts("a"), counts("b"))
    counts.forget("b")
    assert {"c"} == counts.missing(["a", "c"])
    assert (2, 3) == (counts("a"), counts("b"))
    with pytest.raises(Unavailable, match="TOPIC_MISSING"):
        counts("c")


class Leaderless(MemoryPublisher):
    """Nobody takes or refuses what is for one topic, until somebody leads it."""

    def __init__(self, endpoint):
        super().__init__()
        self.topic, self.led, self.sent = topics.INFERENCE_PREDICTIONS.of(endpoint), False, 0

    def send(self, messages):
        sending = super().send(messages)
        if messages[0].topic == self.topic:
            self.sent += 1
            sending.over = lambda _: self.led
        return sending


@pytest.fixture
def long_backoff(monkeypatch):
    monkeypatch.setattr(backoff, "FIRST_S", 3_600.0)
    monkeypatch.setattr(backoff, "BACKOFF_S_MAX", 3_600.0)


def test_endpoint_goes_on_while_a_missing_topic_is_in_backoff(desk, long_backoff):
    before = lost("TOPIC_MISSING")
    desk.fails, desk.reason = "broken", "TOPIC_MISSING"
    desk.give("broken", 0.0)
    desk.give("delay", 0.0)
    desk.log.flush()
    desk.log.start()

    for score in (1.0, 2.0, 3.0):
        desk.give("broken", score)
        desk.give("delay", score)
        wait_until(lambda score=score: score in desk.scores("delay"))
    assert [0.0, 1.0, 2.0, 3.0] == desk.scores("delay")
    assert 1 == sum("broken" in topic for topic in desk.asked)

    desk.fails = ""
    desk.log.stop(5.0)
    assert [1.0, 2.0, 3.0] == desk.scores("broken")
    assert 1 == lost("TOPIC_MISSING") - before


def test_endpoint_goes_on_while_another_waits_for_its_leader(tmp_path):
    desk = Desk(tmp_path, Leaderless("broken"))
    desk.log.start()
    for score in (0.0, 1.0, 2.0):
        desk.give("broken", score)
        desk.give("delay", score)
        wait_until(lambda score=score: score in desk.scores("delay"))
    assert (1, []) == (desk.publisher.sent, desk.scores("broken"))

    desk.publisher.led = True
    wait_until(lambda: len(desk.scores("broken")) == 3)
    desk.log.stop(5.0)
    assert [0.0, 1.0, 2.0] == desk.scores("broken") == desk.scores("delay")


def test_end_writes_what_waits_beside_what_is_stuck_and_counts_that(tmp_path):
    desk, before = Desk(tmp_path, Leaderless("broken")), lost("BROKER_UNAVAILABLE")
    desk.log.start()
    desk.give("broken", 0.0)
    wait_until(lambda: desk.publisher.sent)
    desk.give("broken", 1.0, 2.0)
    desk.give("delay", 0.0)

    desk.log.stop(0.5)
    assert [0.0] == desk.scores("delay")
    assert 2 == lost("BROKER_UNAVAILABLE") - before


@pytest.mark.parametrize("tries", [0, 1])
def test_full_room_is_made_by_the_endpoint_in_trouble(tmp_path, tries, long_backoff):
    desk, before = Desk(tmp_path, Leaderless("broken"), pending_bytes_max=5_000), lost("QUEUE_FULL")
    desk.fails = "broken" * tries
    desk.give("broken", *map(float, range(3)))
    desk.give("delay", -1.0)
    desk.log.flush(wait_s=0.0) if tries else desk.log._round()
    desk.log.start()
    desk.give("delay", 0.0)
    wait_until(lambda: 0.0 in desk.scores("delay"))

    desk.give("broken", *map(float, range(3, 100)))
    broken_lost = lost("QUEUE_FULL") - before
    assert broken_lost > 0
    desk.give("delay", *map(float, range(1, 6)))
    wait_until(lambda: 5.0 in desk.scores("delay"))
    assert [-1.0, *map(float, range(6))] == desk.scores("delay")
    assert lost("QUEUE_FULL") - before > broken_lost

    desk.publisher.led, desk.fails = True, ""
    desk.log.stop(5.0)
    arrived = desk.scores("broken")
    assert list(map(float, range(len(arrived)))) == arrived
    assert 100 == len(arrived) + lost("QUEUE_FULL") - before


def test_outage_of_all_is_nobodys_trouble_and_its_end_is_everybodys(tmp_path, long_backoff):
    desk, before = Desk(tmp_path, pending_bytes_max=5_000), lost("QUEUE_FULL")
    desk.fails = "predictions"
    desk.give("alpha", 0.0)
    desk.give("beta", *map(float, range(100)))
    for _ in range(OWN_FAILURES_MAX + 1):
        desk.log.flush()
    beta_lost = lost("QUEUE_FULL") - before
    desk.give("alpha", *map(float, range(1, 50)))
    alpha_lost = lost("QUEUE_FULL") - before - beta_lost
    assert (1, True) == (50 - alpha_lost, beta_lost < 100)
    assert [] == desk.publisher.published

    desk.fails = ""
    desk.log.stop(5.0)
    assert [0.0] == desk.scores("alpha")
    assert list(map(float, range(100 - int(beta_lost)))) == desk.scores("beta")


def test_first_endpoint_to_get_through_ends_the_backoff_of_those_in_no_trouble(desk, long_backoff):
    desk.fails = "predictions"
    desk.give("alpha", 0.0)
    desk.give("beta", 0.0)
    desk.log.flush()
    desk.fails = ""
    desk.log.start()

    desk.give("gamma", 0.0)
    wait_until(lambda: desk.scores("alpha") and desk.scores("beta"))
    desk.log.stop(5.0)
    assert 3 == len(desk.publisher.published)


def test_what_waited_long_is_written_in_slices(desk, monkeypatch):
    monkeypatch.setattr(prediction_backlogs, "SLICE_BYTES_MAX", 1)
    desk.append(*(a_prediction("UA-1", id=str(number)) for number in range(5)))

    assert [True, True] == [desk.log.flush(), desk.log.flush()]
    assert 2 == len(desk.publisher.published)
    desk.log.stop(5.0)
    assert 5 == len(desk.publisher.published)


def test_rows_that_nobody_took_until_the_end_are_counted(desk):
    before = lost("BROKER_UNAVAILABLE")
    desk.publisher.errors += [Unavailable("DELIVERY_UNKNOWN")] * 9
    desk.append(a_prediction("UA-1", "UA-2"))

    desk.log.stop(5.0)

    assert 2 == lost("BROKER_UNAVAILABLE") - before
    assert [] == desk.publisher.published


class SlowPublisher(MemoryPublisher):
    """Confirms nothing until it may."""

    def __init__(self):
        super().__init__()
        self.sent, self.may, self.waits_s = 0, threading.Event(), []

    def send(self, messages):
        self.sent += 1
        return self

    def over(self, timeout_s):
        self.waits_s.append(timeout_s)
        return self.may.wait(timeout_s)

    def wait(self, timeout_s):
        raise Unavailable("DELIVERY_UNKNOWN", topic="slow")


@pytest.fixture
def slow(tmp_path):
    publisher = SlowPublisher()
    log = KafkaPredictionLog(
        publisher,
        partitions=lambda _: 1,
        counts=AnsweredCounts(tmp_path),
        pending_bytes_max=1 << 20,
    )
    return publisher, log


def test_end_takes_no_longer_than_it_may(slow):
    publisher, log = slow
    before = lost("BROKER_UNAVAILABLE")
    log.append(a_prediction("UA-1"))

    log.stop(0.2)

    assert 1 == lost("BROKER_UNAVAILABLE") - before
    assert max(publisher.waits_s) <= 0.2


def test_thread_that_outlasts_the_end_writes_alone_and_its_rows_are_counted(slow):
    publisher, log = slow
    before = lost("BROKER_UNAVAILABLE")
    log.start()
    log.append(a_prediction("UA-1"))
    wait_until(lambda: publisher.sent)
    log.append(a_prediction("UA-1", "UA-2", id="2"))
    log.stop(0.1)
    assert (1, 2) == (publisher.sent, lost("BROKER_UNAVAILABLE") - before)
    publisher.may.set()

    wait_until(lambda: lost("BROKER_UNAVAILABLE") - before == 3)
    assert 1 == publisher.sent


def test_missing_topic_loses_rows_until_it_is_there(desk):
    desk.topics_missing = True
    desk.append(a_prediction("UA-1", id="1"))
    assert [] == desk.rows()
    desk.topics_missing = False
    desk.append(a_prediction("UA-1", id="2"))

    assert [2] == [row.rows_answered for row in desk.rows()]


def test_count_outlives_the_process(tmp_path):
    first = Desk(tmp_path)
    first.append(a_prediction("UA-1", "UA-2"))  # and is killed before it wrote them

    again = Desk(tmp_path)
    again.append(a_prediction("UA-1", id="s"))

    (record,) = again.records()
    assert (3, first.counts.writer) == (record.rows_answered, record.writer)


def test_thread_writes_soon_and_the_end_writes_the_rest(desk):
    desk.log.start()
    desk.append(a_prediction("UA-1", id="1"))
    wait_until(lambda: desk.publisher.published)

    desk.append(a_prediction("UA-1", id="2"))
    desk.log.stop(5.0)

    assert 2 == len(desk.publisher.published)
    assert desk.log.failed() is None


def test_record_tells_of_the_span_that_wrote_it_which_is_linked_to_its_requests(desk):
    with recorded_spans() as finished:
        desk.log.append(a_prediction("a"), traces=[a_traceparent(1)])
        desk.log.append(a_prediction("b"))
        desk.log.append(a_prediction("c", "d"), traces=[a_traceparent(2), a_traceparent(3)])
        desk.log.flush()
        (span,) = finished()

    assert [1, 2, 3] == [link.context.trace_id for link in span.links]
    trace = a_traceparent(1, span=span.context.span_id).encode()
    assert {trace} == {dict(m.headers)["traceparent"] for m in desk.publisher.published}


def test_records_of_requests_that_nobody_traces_have_no_traceparent(desk):
    with recorded_spans() as finished:
        desk.log.append(a_prediction("a"))
        desk.log.flush()

    assert "traceparent" not in dict(desk.publisher.published[0].headers)
    assert () == finished()


def test_span_of_records_that_were_lost_says_why(desk):
    desk.topics_missing = True
    with recorded_spans() as finished:
        desk.log.append(a_prediction("a"), traces=[a_traceparent(1)])
        desk.log.flush()
        (span,) = finished()

    assert "TOPIC_MISSING" == span.attributes["error.type"]

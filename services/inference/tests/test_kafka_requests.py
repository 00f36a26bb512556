# SPDX-License-Identifier: Apache-2.0
"""Requests over Kafka: each has one answer, beside its offset, in the order of its key."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest

from headrace import topics
from headrace.errors import Busy, Invalid, Unavailable
from headrace.inference.v1 import inference_events_pb2 as pb
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace_inference.adapters import (
    hot_infer,
    kafka_answers,
    kafka_requests,
    lanes,
    object_claims,
)
from headrace_inference.adapters.answer_look_ups import AnswerLookUps
from headrace_inference.adapters.entity_runs import EntityRuns
from headrace_inference.adapters.grpc_api import InferenceApi
from headrace_inference.adapters.hot_infer import HotInfer
from headrace_inference.adapters.kafka_prediction_log import RememberedCounts
from headrace_inference.adapters.kafka_requests import KafkaRequests
from headrace_inference.adapters.late_calls import LateCalls
from headrace_inference.adapters.object_claims import ObjectClaims
from headrace_inference.adapters.record_filler import RecordFiller
from headrace_inference.adapters.request_counters import RequestCounters
from headrace_inference.domain.claim import Claim, Room
from headrace_inference.domain.prediction import id_base
from headrace_inference.domain.rollout import Arm, Rollout
from headrace_inference.domain.serving import ServingTable
from headrace_inference.domain.statistics import Statistics
from headrace_inference.handlers import infer, predict, predict_together, serve_rollout
from headrace_inference.testing import (
    MemoryArtifactStore,
    MemoryFeatureReader,
    MemoryPredictionLog,
    a_model,
    a_served_version,
    an_endpoint,
    models_of,
)
from headrace_kit.auth import EVERYBODY
from headrace_kit.clock import SystemClock
from headrace_kit.consume import TopicsAwaited, Unfinished
from headrace_kit.hot_calls import HotCall
from headrace_kit.kafka import Message, Partition, RecordBatch
from headrace_kit.objects import MemoryObjectStore
from headrace_kit.testing import (
    MemoryAttemptLog,
    MemoryPublisher,
    MemoryTopicLog,
    a_record,
    wait_until,
)

REQUESTS = topics.INFERENCE_REQUESTS.of("delay")
PREDICTIONS = topics.INFERENCE_PREDICTIONS.of("delay")
ANSWERS = {PREDICTIONS, topics.INFERENCE_PREDICTIONS.of("other")}
PARTITIONS = 4
CLAIM_BYTES_MAX, MEMORY_BYTES_MAX = 5_000, 2_000


class AwayFeatures(MemoryFeatureReader):
    """The feature service while it is away."""

    def read(self, *_, **__):
        raise Unavailable("SERVICE_UNAVAILABLE", service="feature")


class Worker:
    """The request handler over real models; Kafka is in memory and outlives it."""

    def __init__(
        self, publisher=None, *, features=None, rows_max=100, attempt_log=None, objects=None
    ):
        self.table, self.statistics, self.log = ServingTable(), Statistics(), MemoryPredictionLog()
        self.publisher = publisher or MemoryPublisher()
        self.chosen = []  # what was to be read, each time that it was asked
        self.committed: dict[Partition, int] = {}
        self.missing: set[str] = set()  # topics
        self.partitions = PARTITIONS  # of each of the others
        counts = RememberedCounts(self.partition_counts)
        bound = {
            "table": self.table,
            "features": features or MemoryFeatureReader(),
            "clock": SystemClock(),
            "rows_max": rows_max,
            "explaining": nullcontext,
            "on_failed": lambda _: None,
        }
        api = InferenceApi(
            self.table,
            infer=partial(infer, predict=partial(predict, **bound), log=self.log),
            ready=lambda: True,
            rows_max=rows_max,
            statistics=self.statistics,
        )
        counters = RequestCounters(self.statistics)
        late = LateCalls()
        entities = EntityRuns(
            self.table,
            predict=partial(
                predict_together,
                features=bound["features"],
                now_us=SystemClock().now_us,
                on_failed=lambda _: None,
            ),
            log=self.log,
            clock=SystemClock(),
            counters=counters,
            rows_max=rows_max,
            late=late,
        )
        self.hot = HotInfer(
            self.table,
            log=self.log,
            clock=SystemClock(),
            servicer=api.answer,
            predict=partial(predict, **bound),
            late=late,
            entities=entities,
            counters=counters,
            rows_max=rows_max,
            workers=2,
            on_failed=lambda _: None,
        )
        self.look_ups = AnswerLookUps(MemoryTopicLog(self.publisher), partitions=counts)
        self.claims = ObjectClaims(
            objects or MemoryObjectStore(),
            clock=SystemClock(),
            bytes_max=CLAIM_BYTES_MAX,
            all_bytes_max=1 << 30,
        )
        self.requests = KafkaRequests(
            RecordFiller(self.hot),
            publisher=self.publisher,
            look_ups=self.look_ups,
            claims=self.claims,
            claims_memory_bytes_max=MEMORY_BYTES_MAX,
            committed=lambda _: self.committed,
            partitions=counts,
            missing=counts.missing,
            clock=SystemClock(),
            follow=lambda: self.chosen.append(self.table.answering()),
            attempt_log=attempt_log or MemoryAttemptLog(),
        )

    def partition_counts(self, wanted):
        return {each: self.partitions for each in wanted if each not in self.missing}

    def serve(self, *versions, percent=50, model=a_model, endpoint="delay"):
        """The first as champion, the second as canary; each answers with its number."""
        artifacts = MemoryArtifactStore()
        served = []
        for version in versions:
            data = model(float(version))
            artifacts.upload(data)
            served.append(a_served_version(version, onnx=data))
        self.table.define(an_endpoint(endpoint))
        rollout = Rollout(endpoint, "m", 1, *served, canary_percent=percent * (len(served) > 1))
        serve_rollout(rollout, table=self.table, models=models_of(artifacts))
        return self

    def handle(self, *records):
        self.requests.handle(RecordBatch.of(records))

    def events(self):
        return [pb.PredictionsMade.FromString(message.value) for message in self.written()]

    def written(self):
        return [each for each in self.publisher.published if each.topic in ANSWERS]

    def answered(self):
        """Of each answer in the order of the topic: partition, offset, and score or reason."""
        found = []
        for event in self.events():
            scores = b"".join(output.contents for output in event.outputs)
            pairs = zip(event.request_offsets, np.frombuffer(scores, "<f4").tolist(), strict=True)
            found += [(event.request_partition, *pair) for pair in pairs]
            found += [
                (event.request_partition, each.request_offset, each.reason)
                for each in event.refused
            ]
        return found


@pytest.fixture
def make_worker():
    made = []

    def make(*arguments, **options):
        made.append(Worker(*arguments, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.hot.close()


@pytest.fixture
def worker(make_worker):
    return make_worker().serve(1)


def asked(*first, id="", version="", endpoint="delay", width=3, **parameters):
    """A row for each first feature."""
    values = np.array([[x, *[0.0] * (width - 1)] for x in first], dtype="<f4")
    message = oip.ModelInferRequest(model_name=endpoint, id=id, model_version=version)
    message.inputs.add(name="features", datatype="FP32", shape=values.shape)
    message.raw_input_contents.append(values.tobytes())
    for name, value in parameters.items():
        message.parameters[name].int64_param = value
    return message.SerializeToString()


def by_keys(*flight_ids, id=""):
    message = oip.ModelInferRequest(model_name="delay", id=id)
    for name, datatype, field, values in (
        ("flight_id", "BYTES", "bytes_contents", [each.encode() for each in flight_ids]),
        ("distance", "FP64", "fp64_contents", [100.0] * len(flight_ids)),
        ("minutes", "INT64", "int64_contents", [5] * len(flight_ids)),
    ):
        tensor = message.inputs.add(name=name, datatype=datatype, shape=[len(flight_ids)])
        getattr(tensor.contents, field).extend(values)
    return message.SerializeToString()


def a_request(
    value,
    offset=0,
    *,
    partition=0,
    key=None,
    timestamp_ms=None,
    endpoint="delay",
    headers=None,
):
    now_ms = SystemClock().now_us() // 1_000
    return a_record(
        value,
        topic=topics.INFERENCE_REQUESTS.of(endpoint),
        partition=partition,
        offset=offset,
        key=key,
        timestamp_ms=now_ms if timestamp_ms is None else timestamp_ms,
        headers=headers,
    )


def test_request_is_answered_in_the_partition_of_its_number_beside_its_offset(worker):
    worker.handle(a_request(asked(0.25, id="r-7"), 40, partition=2))

    (message,), (event,) = worker.written(), worker.events()
    assert 2 == message.partition
    assert [(2, 40, 1.25)] == worker.answered()
    assert [f"{id_base('r-7', 'delay')}00000000"] == list(event.first_prediction_ids)
    assert ("", 0) == (event.writer, event.rows_answered)


def test_requests_of_all_partitions_run_together(worker):
    records = [a_request(asked(0.25), n // 4, partition=n % 4) for n in range(40)]
    worker.handle(*records)

    assert 40 == len(worker.answered())
    assert (1, 40) == (lambda read: (read.executions, read.rows))(
        worker.statistics.read("delay", 1)
    )
    assert [] == worker.log.predictions


def test_request_of_many_rows_is_one_run_of_ids(worker):
    worker.handle(a_request(asked(0.0, 1.0, 2.0, id="r"), 3))

    (event,) = worker.events()
    assert ([3], [3]) == (list(event.run_rows), list(event.request_offsets))


def test_key_of_the_record_is_the_entity_of_its_rows(worker):
    worker.handle(a_request(asked(0.0, 0.0), 0, key=b"UA-1"), a_request(asked(0.0), 1, key=b"\xff"))

    (event,) = worker.events()
    assert ["UA-1", "UA-1", ""] == list(event.entity_keys)


@pytest.mark.parametrize("raw", [True, False], ids=["by its form", "alone"])
def test_entity_that_the_request_names_goes_before_the_key_of_its_record(make_worker, raw):
    worker = make_worker().serve(1, 2)
    rollout = worker.table.ready("delay")[1].rollout
    records = []
    for number in range(20):
        message = oip.ModelInferRequest.FromString(asked(0.0))
        message.parameters["entity_key"].string_param = f"UA-{number}"
        if not raw:
            del message.raw_input_contents[:]
            message.inputs[0].contents.fp32_contents.extend([0.0] * 3)
        records.append(a_request(message.SerializeToString(), number, key=b"of the record"))
    worker.handle(*records)

    expected = {n: 1.0 + (rollout.arm_of(f"UA-{n}") is Arm.CANARY) for n in range(20)}
    assert expected == {offset: score for _, offset, score in worker.answered()}
    logged = [key for event in worker.events() for key in event.entity_keys]
    assert {f"UA-{number}" for number in range(20)} == set(logged)


def test_key_of_the_record_chooses_the_arm(make_worker):
    worker = make_worker().serve(1, 2)
    rollout = worker.table.ready("delay")[1].rollout
    worker.handle(*(a_request(asked(0.0), n, key=b"UA-%d" % n) for n in range(20)))

    expected = {n: 1.0 + (rollout.arm_of(f"UA-{n}") is Arm.CANARY) for n in range(20)}
    assert expected == {offset: score for _, offset, score in worker.answered()}


def test_request_by_entity_keys_is_answered(worker):
    worker.handle(a_request(by_keys("UA-1", "UA-2", id="r"), 5))

    (event,) = worker.events()
    assert (["UA-1", "UA-2"], [5]) == (list(event.entity_keys), list(event.request_offsets))


def test_attributions_that_are_asked_for_are_in_the_answer(worker):
    message = oip.ModelInferRequest.FromString(asked(0.25))
    message.outputs.add(name="score")
    message.outputs.add(name="attributions")
    worker.handle(a_request(message.SerializeToString()))

    (event,) = worker.events()
    assert ["score", "attributions"] == [each.name for each in event.outputs]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (asked(0.0, width=2, id="r"), "TENSOR_SHAPE"),
        (asked(np.inf, id="r"), "TENSOR_NONFINITE"),
        (asked(0.0, version="9", id="r"), "MODEL_UNKNOWN"),
        (asked(0.0, endpoint="other", id="r"), "BAD_REQUEST"),
        (asked(*[0.0] * 101, id="r"), "BATCH_TOO_LARGE"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_request_that_cannot_be_answered_is_answered_by_a_reason(worker, value, reason):
    worker.handle(a_request(asked(0.0), 0), a_request(value, 1))

    assert [(0, 0, 1.0), (0, 1, reason)] == sorted(worker.answered(), key=lambda each: each[1])
    assert ["r"] == [each.request_id for event in worker.events() for each in event.refused]


def test_wait_of_a_request_in_its_topic_is_no_time_of_the_service(worker):
    hour_ago_ms = SystemClock().now_us() // 1_000 - 3_600_000
    values = asked(0.0), asked(0.0, timeout=1), by_keys("UA-1")
    records = (a_request(each, n, timestamp_ms=hour_ago_ms) for n, each in enumerate(values))
    worker.handle(*records)

    done = worker.statistics.read("delay", 1)
    assert (2, 1) == (done.success.count, done.fail.count)
    assert max(done.success.ns, done.queue.ns, done.fail.ns) < 3_600 * 1_000_000_000


def test_request_whose_time_is_over_is_answered_without_a_run(worker):
    minute_ago_ms = SystemClock().now_us() // 1_000 - 60_000
    worker.handle(a_request(asked(0.0, timeout=30_000_000), 0, timestamp_ms=minute_ago_ms))

    assert [(0, 0, "DEADLINE_UNMET")] == worker.answered()
    assert 0 == worker.statistics.read("delay", 1).executions


def letters(worker):
    """Of the dead letters: the offset and the reason."""
    found = [dict(each.headers) for each in worker.publisher.published if each.topic not in ANSWERS]
    return [(int(each["dl-offset"]), each["dl-reason"].decode()) for each in found]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\xff\xff", "DECODE_ERROR"),
        (None, "TOMBSTONE"),
        (b"", "BAD_REQUEST"),
        (asked(0.0, width=4), "TENSOR_SHAPE"),
        (asked(0.0, endpoint="other"), "BAD_REQUEST"),
        (asked(0.0, id="a\0b"), "BAD_ID"),
        (asked(0.0, id="\u202egpj"), "BAD_ID"),
    ],
)
def test_bad_record_is_answered_by_its_reason_and_a_dead_letter(worker, value, reason):
    worker.handle(a_request(value, 0), a_request(asked(0.0), 1))

    assert [(0, reason)] == letters(worker)
    assert {(0, 0, reason), (0, 1, 1.0)} == set(worker.answered())


def test_request_that_is_no_record_s_fault_is_no_dead_letter(make_worker):
    worker = make_worker().serve(1, model=lambda _: a_model(math.nan))
    worker.handle(a_request(asked(0.0), 0))

    assert ([], [(0, 0, "MODEL_NONFINITE")]) == (letters(worker), worker.answered())


def test_dead_letter_is_there_before_the_answer_that_ends_the_matter(worker):
    worker.publisher.errors = [Unavailable("DELIVERY_UNKNOWN")]
    with pytest.raises(Unavailable):
        worker.handle(a_request(None, 0))
    assert [] == worker.answered()

    with pytest.raises(Unavailable):  # it is not known yet what has arrived
        worker.handle(a_request(None, 0))
    worker.look_ups.look_up_next(0.0)
    worker.handle(a_request(None, 0))

    assert ([(0, "TOMBSTONE")], [(0, 0, "TOMBSTONE")]) == (letters(worker), worker.answered())
    assert [False, True] == [each.topic in ANSWERS for each in worker.publisher.published]


def test_answers_of_a_key_keep_its_order_though_other_versions_make_them(make_worker):
    worker = make_worker().serve(1, 2)
    versions = [2, 1, 1, 2, 9, 1]
    records = [
        a_request(asked(0.0, version=str(version)), n, key=b"UA-1")
        for n, version in enumerate(versions)
    ]
    worker.handle(*records, *(a_request(asked(0.0, version="1"), 6 + n) for n in range(3)))

    offsets = [offset for _, offset, _ in worker.answered() if offset < 6]
    assert [0, 1, 2, 3, 4, 5] == offsets
    assert 9 == len(worker.answered())


def test_answers_of_a_key_keep_its_order_whatever_their_priority(worker, monkeypatch):
    gate = Gate(worker, monkeypatch)
    gate.open.set()
    priorities = [3, 2, 1]
    worker.handle(
        *(
            a_request(asked(0.0, priority=priority), n, key=b"UA-1")
            for n, priority in enumerate(priorities)
        )
    )

    assert [0, 1, 2] == [offset for _, offset, _ in worker.answered()]


def test_request_without_an_id_has_the_same_prediction_id_when_it_is_read_again(make_worker):
    ids = []
    for _ in range(2):
        worker = make_worker().serve(1)
        worker.handle(a_request(asked(0.0), 17, partition=3))
        ids += worker.events()[0].first_prediction_ids

    assert 1 == len(set(ids))


def test_request_without_an_id_has_another_prediction_id_in_a_topic_that_was_made_again(
    make_worker,
):
    ids, events = [], []
    for topic_id in ("first", "second", "second"):
        worker = make_worker().serve(1)
        worker.requests.follow_topics({REQUESTS: topic_id})
        worker.handle(a_request(asked(0.0), 17), a_request(b"no message", 18))
        ids += [each for event in worker.events() for each in event.first_prediction_ids]
        events.append({dict(each.headers)["ce_id"] for each in worker.written()})

    assert ids[0] != ids[1] == ids[2]
    assert not events[0] & events[1]
    assert events[1] == events[2]


def a_topic(*values):
    """Kafka with these requests on partition 0."""
    publisher = MemoryPublisher()
    publisher.publish([Message(REQUESTS, None, value) for value in values])
    return publisher


def test_next_owner_passes_over_what_is_answered_behind_the_groups_offset(make_worker):
    values = [asked(float(n)) for n in range(4)]
    records = [a_request(value, n) for n, value in enumerate(values)]
    kafka = a_topic(*values)
    make_worker(kafka).serve(1).handle(records[0], records[1], records[3])

    heir, mine = make_worker(kafka).serve(1), [Partition(REQUESTS, 0)]
    heir.requests.positions(mine)
    assert mine == heir.requests.restoring()
    heir.look_ups.look_up_next(0.0)
    assert {} == heir.requests.positions(mine)
    assert [] == heir.requests.restoring()
    heir.handle(*records)

    assert [(0, n, 1.0 + n) for n in (0, 1, 3, 2)] == heir.answered()


def test_answers_to_a_topic_that_was_before_answer_none_of_the_one_made_again(make_worker):
    values, mine = [asked(0.0), b"no message"], [Partition(REQUESTS, 0)]
    records, kafka = [a_request(value, n) for n, value in enumerate(values)], a_topic(*values)
    worker = make_worker(kafka).serve(1)
    worker.requests.follow_topics({REQUESTS: "first"})
    worker.handle(*records)

    def answered_by_heir_of(topic_id):
        heir, before = make_worker(kafka).serve(1), len(kafka.published)
        heir.requests.follow_topics({REQUESTS: topic_id})
        heir.requests.positions(mine)
        heir.look_ups.look_up_next(0.0)
        heir.requests.positions(mine)
        heir.handle(*records)
        return [each for each in kafka.published[before:] if each.topic == PREDICTIONS]

    assert [] == answered_by_heir_of("first")
    again = answered_by_heir_of("second")
    events = [pb.PredictionsMade.FromString(each.value) for each in again]
    assert {"second"} == {each.request_topic_id for each in events}
    assert 2 == sum(len(each.request_offsets) + len(each.refused) for each in events)


def test_what_a_failed_delivery_brought_after_all_is_not_answered_again(make_worker):
    values = [asked(0.0), asked(1.0)]
    kafka = a_topic(*values)
    worker = make_worker(kafka).serve(1)
    records = [a_request(value, n) for n, value in enumerate(values)]
    worker.handle(records[0])
    kafka.errors.append(Unavailable("DELIVERY_UNKNOWN"))
    for _ in range(2):  # nothing is sent again before the topic was asked
        with pytest.raises(Unavailable, match="DELIVERY_UNKNOWN"):
            worker.handle(*records)
    worker.look_ups.look_up_next(0.0)
    worker.handle(*records)

    assert [(0, 0, 1.0), (0, 1, 2.0)] == worker.answered()


class AwayLog(MemoryTopicLog):
    """Topics of a broker that does not answer."""

    def read(self, *_, **__):
        raise Unavailable("BROKER_UNAVAILABLE")


def test_look_up_that_failed_is_told_and_begun_again():
    kafka = a_topic(asked(0.0))
    look_ups = AnswerLookUps(AwayLog(kafka), partitions=lambda _: PARTITIONS)
    partition = Partition(REQUESTS, 0)
    for _ in range(2):
        assert look_ups.answered(partition, "", 0) is None
        look_ups.look_up_next(0.0)
        with pytest.raises(Unavailable, match="BROKER_UNAVAILABLE"):
            look_ups.answered(partition, "", 0)


def test_partition_that_went_to_another_is_looked_up_anew_when_it_comes_back(make_worker):
    kafka = a_topic(asked(0.0))
    heir, mine = make_worker(kafka).serve(1), [Partition(REQUESTS, 0)]
    heir.requests.positions(mine)
    heir.requests.forget(mine)
    make_worker(kafka).serve(1).handle(a_request(asked(0.0)))
    heir.requests.positions(mine)
    for _ in range(2):
        heir.look_ups.look_up_next(0.0)
    heir.requests.positions(mine)
    heir.handle(a_request(asked(0.0)))

    assert [(0, 0, 1.0)] == heir.answered()


class Death(BaseException):
    """The process is gone, and nobody could do anything."""


@pytest.mark.parametrize("end", [Death, RuntimeError], ids=["crash", "unknown error"])
def test_request_that_ends_the_process_three_times_is_answered_so_and_the_others_too(
    make_worker, monkeypatch, end
):
    fill = RecordFiller.fill

    def deadly(filler, calls, **options):
        if 3 in {call.offset for call in calls}:
            raise end
        fill(filler, calls, **options)

    monkeypatch.setattr(RecordFiller, "fill", deadly)
    kafka, attempt_log = MemoryPublisher(), MemoryAttemptLog()
    records = [a_request(asked(float(n)), n) for n in range(6)]
    for _ in range(3):
        worker = make_worker(kafka, attempt_log=attempt_log).serve(1)
        with pytest.raises(end):
            worker.handle(*records)
    answered = {offset for _, offset, _ in worker.answered()}
    worker = make_worker(kafka, attempt_log=attempt_log).serve(1)
    worker.handle(*(each for each in records if each.offset not in answered))

    assert {0: 1.0, 1: 2.0, 2: 3.0, 3: "POISON_CRASH", 4: 5.0, 5: 6.0} == {
        offset: said for _, offset, said in worker.answered()
    }
    assert {} == attempt_log.read()


def test_error_on_another_thread_leaves_its_requests_suspects(make_worker, monkeypatch):
    attempt_log = MemoryAttemptLog()
    worker = make_worker(attempt_log=attempt_log).serve(1)
    gate = Gate(worker, monkeypatch)
    gate.open.set()
    # To write the bug into the log takes seconds on a busy machine.
    monkeypatch.setattr(kafka_requests, "HANDLE_S_MAX", 60.0)
    monkeypatch.setattr(hot_infer, "run_together", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.handle(a_request(asked(0.0), 7))

    assert {(REQUESTS, 0): (7, 8)} == {
        place: (each.first, each.end) for place, each in attempt_log.read().items()
    }


def test_request_whose_features_cannot_be_read_comes_again_and_the_rest_is_answered(make_worker):
    worker = make_worker(features=AwayFeatures()).serve(1)
    records = [
        a_request(by_keys("UA-1"), 0, key=b"UA-1"),
        a_request(asked(0.0), 1, key=b"UA-1"),  # may not overtake the one before
        a_request(asked(0.0), 2, key=b"UA-2"),
    ]
    for _ in range(2):
        with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
            worker.handle(*records)

    assert [(0, 2, 1.0)] == worker.answered()


class LossyPublisher(MemoryPublisher):
    """Of one topic it delivers nothing: that is missing."""

    def publish(self, messages, **options):
        super().publish([each for each in messages if each.topic != PREDICTIONS], **options)
        if any(each.topic == PREDICTIONS for each in messages):
            raise Unavailable("TOPIC_MISSING", topic=messages[0].topic)


def test_requests_whose_answers_have_no_topic_are_put_off_and_the_rest_is_answered(make_worker):
    kafka, value = LossyPublisher(), asked(0.0, endpoint="other")
    other = a_request(value, 0, endpoint="other")
    kafka.publish([Message(other.topic, None, value)])
    worker = make_worker(kafka).serve(1).serve(1, endpoint="other")
    worker.missing = {PREDICTIONS}
    with pytest.raises(TopicsAwaited) as awaited:
        worker.handle(a_request(asked(0.0), 0), other)
    assert {REQUESTS: PREDICTIONS} == awaited.value.missing_by_topic

    hand_over_until_done(worker, other)
    assert [(0, 0, 1.0)] == worker.answered()


def hand_over_until_done(worker, *records):
    """As the loop does, while it is looked up what was answered."""

    def done():
        worker.look_ups.look_up_next(0.0)
        worker.handle(*records)
        return True

    wait_until(done)


class NarrowPublisher(MemoryPublisher):
    """Has this many partitions of every topic."""

    partitions = PARTITIONS

    def publish(self, messages, **options):
        if gone := [each for each in messages if each.partition >= self.partitions]:
            raise Unavailable("TOPIC_MISSING", topic=gone[0].topic)
        super().publish(messages, **options)


def test_answers_lie_in_the_partitions_that_are_left_of_a_topic_made_again_with_fewer(make_worker):
    kafka = NarrowPublisher()
    worker = make_worker(kafka).serve(1)
    worker.handle(a_request(asked(0.0), 0, partition=3))
    kafka.partitions = worker.partitions = 2
    request = a_request(asked(1.0), 1, partition=3)
    with pytest.raises(Unavailable, match="TOPIC_MISSING"):
        worker.handle(request)

    hand_over_until_done(worker, request)
    assert [3, 1] == [each.partition for each in worker.written()]


class Gate:
    """A model's `run` that waits until it is opened."""

    def __init__(self, worker, monkeypatch):
        model = worker.table.ready("delay")[1].champion.model
        self.open, self.ran, self.endings = threading.Event(), [], []
        self._run = model.run
        monkeypatch.setattr(model, "run", self.run)
        monkeypatch.setattr(hot_infer, "QUICK_S", 0.0)
        monkeypatch.setattr("headrace_inference.adapters.record_filler.QUICK_S", 0.0)

    def run(self, inputs, outputs, ending):
        self.ran.append(len(inputs["features"]))
        self.endings.append(ending)
        assert self.open.wait(30)
        return self._run(inputs, outputs, ending)


def a_call(payload):
    return HotCall(
        payload,
        caller=EVERYBODY,
        arrived_s=0.0,
        deadline_s=math.inf,
        reply=lambda call, answer: None,
    )


def test_requests_of_a_slow_model_share_the_lane_of_its_callers(worker, monkeypatch):
    gate = Gate(worker, monkeypatch)
    worker.hot.take([a_call(asked(0.5))])  # begins
    wait_until(lambda: gate.ran)
    handling = threading.Thread(
        target=worker.handle, args=[a_request(asked(0.25), n) for n in range(3)]
    )
    worker.hot.take([a_call(asked(0.5))])
    handling.start()
    lane = next(iter(worker.hot._lanes.values()))
    wait_until(lambda: lane._rows == 4)
    gate.open.set()
    handling.join()

    assert [1, 4] == gate.ran
    assert [True, False] == [each is not None for each in gate.endings]  # Kafka's goes to its end
    assert [(0, n, 1.25) for n in range(3)] == worker.answered()
    assert [1, 1] == [each.rows for each in worker.log.predictions]
    assert [[1.5], [1.5]] == [each.scores.tolist() for each in worker.log.predictions]


def test_request_without_a_turn_in_time_is_left_for_later(worker, monkeypatch):
    monkeypatch.setattr(kafka_requests, "HANDLE_S_MAX", 0.05)
    gate = Gate(worker, monkeypatch)
    with pytest.raises(Busy, match="QUEUE_FULL"):
        worker.handle(a_request(asked(0.0), 0))
    gate.open.set()
    monkeypatch.setattr(kafka_requests, "HANDLE_S_MAX", 30.0)
    worker.handle(a_request(asked(0.0), 0))

    assert [(0, 0, 1.0)] == worker.answered()


def test_request_that_a_slow_lane_has_no_room_for_any_more_comes_again(worker, monkeypatch):
    gate = Gate(worker, monkeypatch)
    gate.open.set()
    for offset in range(lanes.LAST_BATCHES):
        worker.handle(a_request(asked(0.0), offset))
    gate.open.clear()
    worker.hot.take([a_call(asked(0.5))])  # begins
    wait_until(lambda: len(gate.ran) == lanes.LAST_BATCHES + 1)
    worker.hot.take([a_call(asked(0.5))])
    lane = next(iter(worker.hot._lanes.values()))
    with ThreadPoolExecutor(1) as pool:
        handling = pool.submit(worker.handle, a_request(asked(0.25), 7))
        wait_until(lambda: lane._rows == 2)
        monkeypatch.setattr(lanes, "QUEUE_S_MAX", 0.0)
        gate.open.set()
        with pytest.raises(Busy, match="QUEUE_FULL"):
            handling.result(30)
    worker.handle(a_request(asked(0.25), 7))

    assert [1] * (lanes.LAST_BATCHES + 3) == gate.ran
    assert (0, 7, 1.25) == worker.answered()[-1]


def test_slow_endpoint_leaves_the_others_their_time(worker, monkeypatch):
    monkeypatch.setattr(kafka_requests, "HANDLE_S_MAX", 0.5)
    gate = Gate(worker, monkeypatch)
    worker.serve(2, endpoint="other")
    records = [
        a_request(asked(0.0), 0),
        a_request(asked(0.25, endpoint="other"), 9, endpoint="other"),
    ]
    with pytest.raises(Unfinished):  # it came further
        worker.handle(*records)
    assert [(0, 9, 2.25)] == worker.answered()
    with pytest.raises(Busy, match="QUEUE_FULL"):
        worker.handle(*records)

    gate.open.set()


def unmet(worker, monkeypatch, value):
    """A model that is not there in time."""

    def late(*_, **__):
        raise Unavailable("DEADLINE_UNMET", needed_s=60.0)

    monkeypatch.setattr(hot_infer, "run_together", late)
    worker.handle(a_request(value, 0))


@pytest.mark.parametrize("limits", [{}, {"timeout": 3_600_000_000}], ids=["none", "an hour"])
def test_request_that_has_time_waits_for_a_model_that_is_on_its_way(worker, monkeypatch, limits):
    with pytest.raises(Unavailable, match="DEADLINE_UNMET"):
        unmet(worker, monkeypatch, asked(0.0, **limits))

    assert [] == worker.answered()


def test_dead_letters_are_not_written_again_while_others_wait(make_worker):
    worker = make_worker(features=AwayFeatures()).serve(1)
    for _ in range(2):
        with pytest.raises(Unavailable, match="SERVICE_UNAVAILABLE"):
            worker.handle(a_request(None, 0), a_request(by_keys("UA-1"), 1))

    assert [(0, "TOMBSTONE")] == letters(worker)
    assert [(0, 0, "TOMBSTONE")] == worker.answered()


def test_record_of_a_stranger_among_the_answers_is_passed_over(make_worker):
    kafka = a_topic(asked(0.0))
    kafka.publish([Message(PREDICTIONS, None, b"\xff\xff")])
    make_worker(kafka).serve(1).handle(a_request(asked(0.0)))
    look_ups, partition = make_worker(kafka).look_ups, Partition(REQUESTS, 0)
    look_ups.answered(partition, "", 0)
    look_ups.look_up_next(0.0)

    assert {0} == look_ups.answered(partition, "", 0)


class Objects(MemoryObjectStore):
    """An object store that may be away."""

    away = False

    def get(self, key):
        self._check()
        return super().get(key)

    def put_if_absent(self, key, data):
        self._check()
        return super().put_if_absent(key, data)

    def _check(self):
        if self.away:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE")


@pytest.fixture
def objects(monkeypatch):
    monkeypatch.setattr(object_claims, "AWAY_S", 0.0)
    return Objects()


def a_claim(claim, offset=0, **options):
    headers = {"claim-digest": claim.digest.encode(), "claim-bytes": b"%d" % claim.size_bytes}
    return a_request(b"", offset, headers=headers, **options)


def claimed(worker, value, offset=0, **options):
    return a_claim(worker.claims.keep_answer("delay", value), offset, **options)


def test_request_that_its_record_claims_is_answered_as_if_it_held_it(worker):
    worker.handle(claimed(worker, asked(0.25, id="r"), 3, partition=2), a_request(asked(0.0), 4))

    assert [(0, 4, 1.0), (2, 3, 1.25)] == sorted(worker.answered())
    ids = {each for event in worker.events() for each in event.first_prediction_ids}
    assert f"{id_base('r', 'delay')}00000000" in ids


OF_OTHER = asked(0.25, endpoint="other")


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (Claim.of(b"never stored"), "CLAIM_UNKNOWN"),
        (Claim.of(b"of another endpoint"), "CLAIM_UNKNOWN"),
        (Claim("a" * 64, CLAIM_BYTES_MAX + 1), "TOO_LARGE"),
        (Claim.of(b"\xff\xff"), "DECODE_ERROR"),
        (Claim.of(OF_OTHER), "BAD_REQUEST"),
    ],
    ids=["never stored", "of another endpoint", "too large", "no request", "asks another endpoint"],
)
def test_claim_that_is_wrong_is_answered_by_a_reason_and_the_next_request_too(
    worker, claim, reason
):
    worker.claims.store("other", b"of another endpoint")
    worker.claims.store("delay", b"\xff\xff")
    worker.claims.store("delay", OF_OTHER)
    worker.handle(a_claim(claim, 0, key=b"UA-1"), a_request(asked(0.0), 1, key=b"UA-1"))

    assert [(0, 0, reason), (0, 1, 1.0)] == worker.answered()
    assert [(0, reason)] == letters(worker)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"claim-digest": b"../models", "claim-bytes": b"1"},
        {"claim-digest": b"a" * 64},
        {"claim-digest": b"\xff" * 64, "claim-bytes": b"1"},
    ],
)
def test_empty_record_that_claims_nothing_is_answered_so(worker, headers):
    worker.handle(a_request(b"", 0, headers=headers), a_request(asked(0.0), 1))

    assert [(0, 0, "BAD_REQUEST"), (0, 1, 1.0)] == sorted(
        worker.answered(), key=lambda each: each[1]
    )


def test_claims_are_read_as_memory_allows_and_all_are_answered(worker):
    values = [asked(*[float(n)] * 50) for n in range(5)]
    fit = MEMORY_BYTES_MAX // len(values[0])
    records = [claimed(worker, value, n) for n, value in enumerate(values)]
    with pytest.raises(Unfinished):
        worker.handle(*records)
    assert [*range(fit)] == sorted(offsets_answered(worker))
    worker.handle(*records)

    assert [*range(5)] == sorted(offsets_answered(worker))
    assert 1 < fit < 5


def test_claim_of_more_than_may_be_in_memory_is_read_alone(make_worker):
    worker = make_worker(rows_max=300).serve(1)
    large = asked(*[0.5] * 250)
    assert MEMORY_BYTES_MAX < len(large) <= CLAIM_BYTES_MAX
    worker.handle(claimed(worker, large))

    assert [250] == [rows for event in worker.events() for rows in event.run_rows]


def test_object_store_away_holds_back_what_is_claimed_alone(make_worker, objects):
    worker = make_worker(objects=objects).serve(1)
    records = [
        claimed(worker, asked(0.0), 0, key=b"UA-1"),
        a_request(asked(0.25), 1, key=b"UA-1"),  # may not overtake the one before
        a_request(asked(0.5), 2, key=b"UA-2"),
    ]
    objects.away = True
    for _ in range(2):
        with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
            worker.handle(*records)
    assert [(0, 2, 1.5)] == worker.answered()
    objects.away = False
    worker.handle(*records)

    assert [(0, 2, 1.5), (0, 0, 1.0), (0, 1, 1.25)] == worker.answered()


@pytest.fixture
def small_records(monkeypatch):
    """Records that take a row or two: an answer of a hundred rows fits none."""
    monkeypatch.setattr(kafka_answers, "RECORD_BYTES_MAX", 300)
    monkeypatch.setattr(kafka_answers, "VALUE_BYTES_MAX", 500)


def offsets_answered(worker):
    return [each for event in worker.events() for each in event.request_offsets]


def test_answer_that_fits_no_record_is_claimed_by_one(worker, small_records):
    worker.handle(a_request(asked(*[0.25] * 100, id="r"), 7, partition=1))

    (event,) = worker.events()
    assert ([7], [100], 1) == (
        list(event.request_offsets),
        list(event.run_rows),
        event.request_partition,
    )
    assert ([], []) == (list(event.inputs), list(event.outputs))
    data = worker.claims.read("delay", Claim(event.claim.digest, event.claim.size_bytes))
    whole = pb.PredictionsMade.FromString(data)
    assert [1.25] * 100 == np.frombuffer(whole.outputs[0].contents, "<f4").tolist()
    assert ([7], 1, ["features"]) == (
        list(whole.request_offsets),
        whole.request_partition,
        [each.name for each in whole.inputs],
    )
    assert whole.first_prediction_ids == event.first_prediction_ids


def test_next_owner_passes_over_an_answer_that_is_claimed(make_worker, small_records):
    large = asked(*[0.0] * 100)
    kafka = a_topic(large)
    make_worker(kafka).serve(1).handle(a_request(large))
    heir, mine = make_worker(kafka).serve(1), [Partition(REQUESTS, 0)]
    heir.requests.positions(mine)
    heir.look_ups.look_up_next(0.0)
    heir.requests.positions(mine)
    heir.handle(a_request(large))

    assert 1 == len(heir.written())


def test_answer_that_cannot_be_kept_comes_again_and_its_key_waits(
    make_worker, objects, small_records
):
    worker = make_worker(objects=objects).serve(1)
    records = [
        a_request(asked(*[0.0] * 100), 0, key=b"UA-1"),
        a_request(asked(0.0), 1, key=b"UA-1"),
        a_request(asked(0.0), 2, key=b"UA-2"),
    ]
    objects.away = True
    for _ in range(2):
        with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
            worker.handle(*records)
    assert [2] == offsets_answered(worker)
    objects.away = False
    worker.handle(*records)

    assert [2, 0, 1] == offsets_answered(worker)


def test_answer_without_room_is_told_and_nothing_waits_for_it(worker, small_records):
    worker.claims._room = Room(1)
    worker.handle(
        a_request(asked(*[0.0] * 100), 0, key=b"UA-1"), a_request(asked(0.0), 1, key=b"UA-1")
    )

    assert [(0, 0, "CLAIMS_FULL"), (0, 1, 1.0)] == worker.answered()


class SmallTopic(MemoryPublisher):
    """Takes no answer of more than so many bytes."""

    def __init__(self, bytes_max):
        super().__init__()
        self.bytes_max = bytes_max

    def publish(self, messages, **options):
        if any(each.topic == PREDICTIONS and len(each.value) > self.bytes_max for each in messages):
            raise Invalid("TOO_LARGE", topic=PREDICTIONS)
        super().publish(messages, **options)


# Of a topic that takes the claim of an answer, or the refusal alone.
CLAIM_FITS, REFUSAL_FITS = 400, 150


def of_a_key():
    return [a_request(asked(*[0.0] * rows), n, key=b"UA-1") for n, rows in enumerate([1, 100, 1])]


def test_answer_that_its_topic_does_not_take_is_claimed_and_those_behind_it_of_its_key_wait(
    make_worker,
):
    worker = make_worker(SmallTopic(CLAIM_FITS)).serve(1)
    worker.handle(*of_a_key())

    assert [0, 1, 2] == offsets_answered(worker)
    assert [False, True, False] == [each.HasField("claim") for each in worker.events()]
    assert [] == letters(worker)


def test_answers_that_lie_in_a_record_too_large_for_their_topic_are_divided(make_worker):
    worker = make_worker(SmallTopic(CLAIM_FITS)).serve(1)
    worker.handle(*(a_request(asked(float(n)), n, key=b"UA-%d" % (n % 7)) for n in range(50)))

    assert [(0, n, 1.0 + n) for n in range(50)] == worker.answered()


def test_answer_whose_topic_does_not_take_its_claim_is_refused_behind_its_dead_letter(make_worker):
    worker = make_worker(SmallTopic(REFUSAL_FITS)).serve(1)
    worker.handle(a_request(asked(0.0), 0))

    assert ([(0, "TOO_LARGE")], [(0, 0, "TOO_LARGE")]) == (letters(worker), worker.answered())
    assert [False, True] == [each.topic in ANSWERS for each in worker.publisher.published]


def test_request_whose_topic_of_answers_takes_nothing_is_left_to_the_loop(make_worker):
    worker = make_worker(SmallTopic(0)).serve(1)
    with pytest.raises(Invalid, match="TOO_LARGE"):
        worker.handle(a_request(asked(0.0), 0))


def test_answer_that_its_topic_does_not_take_waits_for_the_object_store(make_worker, objects):
    kafka = SmallTopic(CLAIM_FITS)
    worker = make_worker(kafka, objects=objects).serve(1)
    records = of_a_key()
    kafka.publish([Message(REQUESTS, None, each.value) for each in records])
    objects.away = True
    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE"):
        worker.handle(*records)
    assert [0] == offsets_answered(worker)
    objects.away = False
    hand_over_until_done(worker, *records)

    assert [0, 1, 2] == offsets_answered(worker)


def test_what_is_to_be_read_is_chosen_anew_while_no_partition_can_be_placed():
    worker = Worker().serve(1)
    for _ in range(2):  # its topic waits to be placed, at each try
        worker.requests.positions([Partition(REQUESTS, 0)])
        worker.table.take_back("delay")

    assert [{"delay"}, set()] == worker.chosen

# SPDX-License-Identifier: Apache-2.0
"""Records that answer requests over Kafka: whole requests, each of a size that a topic takes."""

import numpy as np
import pytest

from headrace import topics
from headrace.errors import Invalid
from headrace.inference.v1 import inference_events_pb2 as pb
from headrace_inference.adapters.kafka_answers import answers
from headrace_inference.adapters.kafka_prediction_log import VALUE_BYTES_MAX
from headrace_inference.adapters.record_calls import RecordCall
from headrace_inference.domain.claim import Claim
from headrace_inference.domain.prediction import Prediction, PredictionIds, id_base
from headrace_inference.domain.request import REQUEST_ID_CHARACTERS_MAX, Door, Tensor
from headrace_inference.domain.rollout import Arm
from headrace_inference.testing import a_served_version
from headrace_kit.kafka import Partition

KIB = 1 << 10


def a_text(name, texts):
    return Tensor(name, "BYTES", (len(texts),), texts)


def ran_together(*requests, inputs=None):
    """Calls at offsets from 0 on, answered by one run; of each request the texts of its rows."""
    texts = [text for request in requests for text in request]
    calls = [a_call(offset) for offset in range(len(requests))]
    prediction = Prediction(
        request_id="",
        endpoint="delay",
        model="m",
        served=a_served_version(1),
        arm=Arm.CHAMPION,
        rollout_generation=1,
        door=Door.TENSORS,
        entity_keys=(),
        as_of_us=np.zeros(len(texts), dtype=np.int64),
        inputs={"prompt": a_text("prompt", inputs)} if inputs else {},
        outputs={"text": a_text("text", texts)},
        shadow=None,
        served_at_us=7,
        ids=PredictionIds([id_base(call.id, "delay") for call in calls], list(map(len, requests))),
    )
    for place, call in enumerate(calls):
        call.answer_by(prediction, place)
    return calls


def a_call(offset, *, error=None):
    partition = Partition(topics.INFERENCE_REQUESTS.of("delay"), 0)
    call = RecordCall(
        b"", endpoint="delay", partition=partition, offset=offset, entity_key="", arrived_s=0.0
    )
    if error is not None:
        call.answer(error)
    return call


def nowhere(endpoint, data):
    raise Invalid("TOO_LARGE", bytes=len(data))


def written(calls, keep=nowhere):
    """The records, each of a size that the topic takes."""
    values = [each.message.value for each in answers(calls, partitions=lambda _: 1, keep=keep)]
    assert max(map(len, values)) <= VALUE_BYTES_MAX
    return [pb.PredictionsMade.FromString(value) for value in values]


def answered(events):
    """Rows by offset, and reasons."""
    found = {}
    for event in events:
        for offset, rows in zip(event.request_offsets, event.run_rows, strict=True):
            found.setdefault(offset, []).append(rows)
        found |= {each.request_offset: each.reason for each in event.refused}
    return found


def test_request_of_many_large_rows_lies_in_one_record():
    events = written(ran_together([b"x" * 40 * KIB] * 20))

    assert [[20]] == [list(event.run_rows) for event in events]


def test_requests_that_ran_together_lie_in_several_records_and_none_is_cut():
    events = written(ran_together(*[[b"x" * 40 * KIB] * 5] * 20))

    assert {offset: [5] for offset in range(20)} == answered(events)
    assert len(events) > 1


def test_request_whose_answer_finds_no_place_is_refused_alone():
    short = [[b"x"]] * 20
    calls = ran_together(*short, [b"x" * KIB * KIB], *short)
    found = answered(written(calls))

    assert "TOO_LARGE" == found.pop(20) == calls[20].error.reason
    assert {offset: [1] for offset in range(41) if offset != 20} == found


def test_inputs_are_left_out_of_a_record_that_they_do_not_fit():
    calls = ran_together([b"a", b"b"], inputs=[b"x" * 600 * KIB] * 2)
    (event,) = written(calls)

    assert ([2], 0) == (list(event.run_rows), len(event.inputs))


def test_answers_lie_in_the_order_of_the_requests_however_they_ran():
    calls = ran_together([b"first"], [b"second", b"third"])
    places = [1, 0]
    for call, place in zip(calls, places, strict=True):
        call.place = place
    (event,) = written(calls)

    assert ([0, 1], [2, 1]) == (list(event.request_offsets), list(event.run_rows))


@pytest.mark.parametrize("length", [10, 20_000], ids=["short", "long"])
def test_refusals_of_long_words_fit_their_records(length):
    error = Invalid("TENSOR_NAME", input="x" * length)
    calls = [a_call(offset, error=error) for offset in range(2_000)]
    for call in calls:
        call.name("i" * min(length, REQUEST_ID_CHARACTERS_MAX), "delay")

    assert dict.fromkeys(range(2_000), "TENSOR_NAME") == answered(written(calls))


class Kept(dict):
    """Objects by digest, of so many bytes at most."""

    def __init__(self, bytes_max):
        self._bytes_max = bytes_max

    def __call__(self, endpoint, data):
        if len(data) > self._bytes_max:
            raise Invalid("TOO_LARGE", bytes=len(data))
        claim = Claim.of(data)
        self[claim.digest] = pb.PredictionsMade.FromString(data)
        return claim


@pytest.mark.parametrize(("bytes_max", "inputs"), [(10 * KIB * KIB, 1), (3 * KIB * KIB, 0)])
def test_answer_that_fits_no_record_is_kept_with_its_inputs_if_they_fit(bytes_max, inputs):
    kept = Kept(bytes_max)
    calls = ran_together([b"x" * KIB * KIB] * 2, inputs=[b"y" * KIB * KIB] * 2)
    (event,) = written(calls, keep=kept)

    (whole,) = kept.values()
    assert [event.claim.digest] == list(kept)
    assert (2, inputs) == (sum(whole.run_rows), len(whole.inputs))
    assert {0: [2]} == answered([event])


def test_large_answer_is_claimed_alone_and_the_others_lie_in_records():
    short, kept = [[b"x"]] * 20, Kept(10 * KIB * KIB)
    events = written(ran_together(*short, [b"x" * KIB * KIB], *short), keep=kept)

    assert {offset: [1] for offset in range(41)} == answered(events)
    assert [[20]] == [list(each.request_offsets) for each in events if each.HasField("claim")]


def test_answer_that_was_kept_is_not_kept_again_in_the_next_pass():
    asked = []

    def keep(endpoint, data):
        asked.append(len(data))
        return Claim.of(data)

    calls = ran_together([b"x" * KIB * KIB], [b"y"])
    passes = [written(calls, keep=keep) for _ in range(2)]

    assert passes[0] == passes[1]
    assert {0: [1], 1: [1]} == answered(passes[1])
    assert 1 == len(asked)

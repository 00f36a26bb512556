# SPDX-License-Identifier: Apache-2.0
"""What a version said NaN to is told in the log, a few of them, however Kafka is."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import pytest
from onnx import TensorProto, helper

from headrace.errors import HeadraceError, Unavailable
from headrace.inference.v1 import inference_events_pb2 as pb
from headrace_inference.adapters.kafka_failure_log import WAITING_OF_ENDPOINT_MAX, KafkaFailureLog
from headrace_inference.domain.prediction import Failure
from headrace_inference.domain.rollout import Arm, Rollout
from headrace_inference.domain.serving import ServingTable
from headrace_inference.handlers import predict, serve_rollout
from headrace_inference.testing import (
    MemoryArtifactStore,
    MemoryFeatureReader,
    a_request,
    a_served_version,
    a_tensor,
    an_endpoint,
    models_of,
    onnx_bytes,
)
from headrace_kit.testing import FixedClock, MemoryPublisher, wait_until

FAILURE = Failure(
    endpoint="delay",
    model="delay-model",
    served=a_served_version(2),
    arm=Arm.CANARY,
    rollout_generation=5,
    prediction_id="a" * 32,
    as_of_us=7,
    reason="MODEL_NONFINITE",
    shadow=False,
)


def a_root(*, of: str) -> bytes:
    """ONNX bytes: y = the root of x or of -x, NaN where that is none."""
    steps = [] if of == "x" else [helper.make_node("Neg", ["x"], ["-x"])]
    tensor = (TensorProto.FLOAT, ["rows", 1])
    return onnx_bytes(
        [*steps, helper.make_node("Sqrt", [of], ["y"])],
        [],
        inputs={"x": tensor},
        outputs={"y": tensor},
    )


class Room:
    """An endpoint whose champion knows the roots of numbers, and its canary those of -numbers."""

    def __init__(self):
        self.table, self.failures, artifacts = ServingTable(), [], MemoryArtifactStore()
        self.table.define(an_endpoint())
        versions = [
            a_served_version(number, onnx=each, features=())
            for number, each in enumerate((a_root(of="x"), a_root(of="-x")), start=1)
            if artifacts.upload(each)
        ]
        rollout = Rollout("delay", "roots", 5, *versions)
        self.table.want(rollout)
        serve_rollout(rollout, table=self.table, models=models_of(artifacts))
        self.predict = partial(
            predict,
            table=self.table,
            features=MemoryFeatureReader(),
            clock=FixedClock(),
            time_left_s=lambda: 5.0,
            rows_max=100,
            explaining=nullcontext,
            on_failed=self.failures.append,
        )

    def root(self, x, version=None):
        return self.predict(a_request(a_tensor("x", "FP32", [[x]]), version=version))

    def told(self):
        return [
            (each.served.version, each.arm, each.reason, each.shadow, each.rollout_generation)
            for each in self.failures
        ]


def test_nan_of_either_arm_is_told_with_the_version_and_generation_that_said_it():
    room = Room()

    answered = room.root(4.0)
    assert answered.shadow is None
    assert [(2, Arm.CANARY, "MODEL_NONFINITE", True, 5)] == room.told()
    assert answered.prediction_ids[0] == room.failures[0].prediction_id

    with pytest.raises(HeadraceError, match="MODEL_NONFINITE"):
        room.root(4.0, version=2)
    assert (2, Arm.CANARY, "MODEL_NONFINITE", False, 5) == room.told()[1]


def requests(publisher):
    records = [pb.PredictionsMade.FromString(each.value) for each in publisher.published]
    return [(made.endpoint, each.prediction_id) for made in records for each in made.nonfinite]


def test_nonfinite_answer_is_written_behind_the_caller():
    publisher = MemoryPublisher()
    failures = KafkaFailureLog(publisher)
    failures.start()

    failures.note(replace(FAILURE, reason="MODEL_ERROR"))
    failures.note(FAILURE)

    wait_until(lambda: publisher.published)
    failures.stop(5.0)
    [message] = publisher.published
    made = pb.PredictionsMade.FromString(message.value)
    assert ("delay", 2, pb.ARM_CANARY, 5) == (
        made.endpoint,
        made.version,
        made.arm,
        made.rollout_generation,
    )
    assert [("delay", "a" * 32)] == requests(publisher)


def test_what_kafka_does_not_take_is_written_later_and_is_bounded():
    publisher = MemoryPublisher()
    publisher.errors = [Unavailable("BROKER_UNAVAILABLE")]
    failures = KafkaFailureLog(publisher)
    for number in range(2 * WAITING_OF_ENDPOINT_MAX):
        failures.note(replace(FAILURE, prediction_id=f"{number:032x}"))
    failures.write()
    failures.note(replace(FAILURE, endpoint="other"))
    assert [] == publisher.published

    failures.write()

    assert WAITING_OF_ENDPOINT_MAX + 1 == len(publisher.published)
    assert ("other", "a" * 32) in requests(publisher)

# SPDX-License-Identifier: Apache-2.0
"""Records of the log hold what a plain row by row reading of the predictions says they do."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.inference.v1 import inference_events_pb2 as pb
from headrace_inference.adapters import kafka_prediction_log
from headrace_inference.adapters.answered_counts import AnsweredCounts
from headrace_inference.adapters.kafka_prediction_log import KafkaPredictionLog
from headrace_inference.adapters.tensor_codec import encode_raw
from headrace_inference.domain.prediction import PredictionIds, Shadow, id_base
from headrace_inference.domain.request import Tensor
from headrace_inference.testing import a_prediction, a_tensor
from headrace_kit.key_partitions import key_partitions
from headrace_kit.testing import MemoryPublisher

PARTITIONS = 3
KEYS = st.sampled_from(["", "a", "b", "c", "\u00e4" * 9])


@st.composite
def predictions(draw, number):
    """Of several requests, some cut off; by rows or a model without; of numbers, texts, a shadow"""
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    forms = ["numbers", "texts", "halves", "shadow", "turned", "times"]
    form = draw(st.sampled_from(forms + ["no rows"] * (counts == [1])))
    rows, floats = sum(counts), np.random.default_rng(number).random
    column = st.lists(st.integers(1, 2), min_size=rows, max_size=rows)
    inputs = {"features": a_tensor("features", "FP32", floats((rows, 3)))}
    outputs = {"score": a_tensor("score", "FP32", floats(rows))}
    shadow = Shadow(9, {"score": a_tensor("score", "FP32", floats(rows))})
    if form == "texts":
        texts = draw(st.lists(st.binary(max_size=200), min_size=2 * rows, max_size=2 * rows))
        inputs["text"] = Tensor("text", "BYTES", (rows, 2), texts)
    times = (floats((rows, 3)) * 1e15).astype(np.int64) if form == "times" else None
    if form == "halves":
        inputs = {"x": a_tensor("x", "FP16", floats((rows, 2, 2)))}
        outputs["sure"] = a_tensor("sure", "BOOL", floats(rows) > 0.5)
    if form == "turned":  # in memory its columns lie together
        values = np.asfortranarray(inputs["features"].values)
        inputs["features"] = Tensor("features", "FP32", values.shape, values)
    if form == "no rows":
        inputs = {"x": a_tensor("x", "INT64", [[1, 2, 3]] * 4)}
        outputs = {
            "sum": a_tensor("sum", "INT64", 24),
            "t": Tensor("t", "BYTES", (2,), [b"", b"b"]),
        }
    made = replace(
        a_prediction(*[""] * rows, version=draw(st.integers(1, 2))),
        entity_keys=draw(st.just(()) | st.lists(KEYS, min_size=rows, max_size=rows)),
        as_of_us=np.array(draw(st.just([5] * rows) | column)),
        inputs=inputs,
        outputs=outputs,
        shadow=shadow if form == "shadow" else None,
        served_at_us=number,
        event_times=None if times is None else Tensor("event_times_us", "INT64", (rows, 3), times),
        ids=PredictionIds(
            [id_base(f"{number}-{i}", "delay") for i in range(len(counts))],
            counts,
            named=draw(st.booleans()),
        ),
    )
    end = draw(st.integers(1, len(counts)))
    return made.of_requests(draw(st.integers(0, end - 1)), end)


@st.composite
def rounds(draw):
    return [draw(predictions(number)) for number in range(draw(st.integers(1, 6)))]


class Row:
    """One row of a prediction, on its own."""

    def __init__(self, prediction, base, number, row):
        self.prediction, self.base, self.number = prediction, base, number
        self.key = prediction.entity_keys[row] if prediction.entity_keys else ""
        self.as_of_us = int(prediction.as_of_us[row])
        shadow = prediction.shadow.outputs if prediction.shadow else {}
        times = {"": prediction.event_times} if prediction.event_times else {}
        groups = (prediction.inputs, times, prediction.outputs, shadow)
        self.groups = [
            [of_row(tensor, row, prediction.rows) for tensor in group.values()] for group in groups
        ]
        self.inputs, self.times, self.outputs, self.shadow = self.groups

    @property
    def partition(self):
        ids, keyed = self.prediction.ids, len(self.prediction.entity_keys) > 0
        asked = self.base if ids.named or keyed else ids.bases[0]
        return int(key_partitions([(self.key or asked).encode()], PARTITIONS)[0])

    @property
    def bytes(self):
        contents = sum(len(data) for group in self.groups for *_, data in group)
        return 128 + 4 * len(self.key) + contents

    @property
    def kind(self):
        shadow = self.prediction.shadow
        tensors = [
            (name, datatype, shape) for each in self.groups for name, datatype, shape, _ in each
        ]
        alone = id(self.prediction) if "sum" in self.prediction.outputs else 0
        return alone, self.prediction.served.version, shadow is not None, tuple(tensors)

    def follows(self, other):
        mine = self.base, self.number, self.as_of_us
        return mine == (other.base, other.number + 1, other.as_of_us)


def of_row(tensor, row, rows):
    """Its name, type, shape behind that of the rows (None: it has no rows), and contents."""
    if tensor.shape[:1] != (rows,):
        return tensor.name, tensor.datatype, None, encode_raw(tensor.values)
    width = len(tensor.values) // rows
    values = tensor.values[row * width : (row + 1) * width]
    return tensor.name, tensor.datatype, tensor.shape[1:], encode_raw(values)


def rows_of(prediction):
    places = enumerate(
        (base, number)
        for base, count in zip(prediction.ids.bases, prediction.ids.rows, strict=True)
        for number in range(count)
    )
    return [Row(prediction, base, number, row) for row, (base, number) in places]


def full_records(rows, bytes_max):
    """As many rows in each as fit."""
    found = [[rows[0]]]
    for row in rows[1:]:
        if sum(each.bytes for each in found[-1]) + row.bytes > bytes_max:
            found.append([])
        found[-1].append(row)
    return found


def record_of(rows, **fields):
    first, bare = rows[0].prediction, rows[0].bytes > fields.pop("bytes_max")
    firsts = [n for n in range(len(rows)) if not n or not rows[n].follows(rows[n - 1])]
    keyed = any(row.prediction.entity_keys for row in rows)
    made = pb.PredictionsMade(
        endpoint="delay",
        model="delay-model",
        version=first.served.version,
        digest=first.served.digest,
        arm=pb.ARM_CHAMPION,
        door=pb.DOOR_TENSORS,
        rollout_generation=1,
        first_prediction_ids=[f"{rows[n].base}{rows[n].number:08x}" for n in firsts],
        run_rows=[end - n for n, end in zip(firsts, [*firsts[1:], len(rows)], strict=True)],
        as_of_us=[rows[n].as_of_us for n in firsts],
        served_at_us=[rows[n].prediction.served_at_us for n in firsts],
        entity_keys=[row.key for row in rows] if keyed else [],
        inputs=[] if bare else stacked([row.inputs for row in rows], first.inputs),
        outputs=stacked([row.outputs for row in rows], first.outputs),
        **fields,
    )
    if first.event_times and not bare:
        made.event_times.CopyFrom(*stacked([row.times for row in rows], {}))
    if first.shadow:
        made.shadow.version = first.shadow.version
        made.shadow.outputs.extend(stacked([row.shadow for row in rows], first.shadow.outputs))
    return made


def stacked(rows, tensors):
    found = []
    for column in zip(*rows, strict=True):
        name, datatype, shape, _ = column[0]
        sizes = tensors[name].shape if shape is None else (len(rows), *shape)
        contents = b"".join(data for *_, data in column)
        found.append(pb.LoggedTensor(name=name, datatype=datatype, shape=sizes, contents=contents))
    return found


@settings(max_examples=100, deadline=None)
@given(rounds(), st.sampled_from([1, 400, 900, 1 << 19]))
def test_records_are_those_of_a_plain_reading_row_by_row(tmp_path_factory, answered, bytes_max):
    publisher, counts = MemoryPublisher(), AnsweredCounts(tmp_path_factory.mktemp("log"))
    log = KafkaPredictionLog(publisher, partitions=lambda _: PARTITIONS, counts=counts)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kafka_prediction_log, "RECORD_BYTES_MAX", bytes_max)
        for prediction in answered:
            log.append(prediction)
        log.flush()

    alike = defaultdict(lambda: defaultdict(list))
    for row in (row for prediction in answered for row in rows_of(prediction)):
        alike[row.kind][row.partition].append(row)
    told = {"writer": counts.writer, "rows_answered": sum(each.rows for each in answered)}
    expected = [
        (partition, record_of(record, bytes_max=bytes_max, **told))
        for by_partition in alike.values()
        for partition, rows in sorted(by_partition.items())
        for record in full_records(rows, bytes_max)
    ]
    found = [(m.partition, pb.PredictionsMade.FromString(m.value)) for m in publisher.published]
    assert expected == found

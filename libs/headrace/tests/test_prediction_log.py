# SPDX-License-Identifier: Apache-2.0
"""Rows of the prediction log: what a record says of each, and what is no record."""

import struct

import pytest

from headrace.errors import Invalid
from headrace.inference.v1 import inference_events_pb2 as pb
from headrace.prediction_log import one_row_record, rows_of


def a_record(times: bytes) -> pb.PredictionsMade:
    made = one_row_record(features=(0.5, 0.25), endpoint="delay")
    made.event_times.CopyFrom(pb.LoggedTensor(shape=[1, 2], datatype="INT64", contents=times))
    return made


def test_row_has_the_event_time_of_each_feature():
    assert [(5, -1)] == [row.event_times_us for row in rows_of(a_record(struct.pack("<2q", 5, -1)))]


def test_row_of_a_record_without_event_times_has_none():
    assert [()] == [row.event_times_us for row in rows_of(one_row_record(features=(0.5,)))]


@pytest.mark.parametrize("length", [7, 8, 24])
def test_record_whose_event_times_are_not_one_for_each_feature_is_refused(length):
    with pytest.raises(Invalid, match="DECODE_ERROR"):
        rows_of(a_record(bytes(length)))

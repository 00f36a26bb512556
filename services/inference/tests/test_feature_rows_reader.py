# SPDX-License-Identifier: Apache-2.0
"""Features are read from rows in memory where these are the answer, else from the service."""

import hashlib

import numpy as np
import pytest

from headrace.application import definition_json
from headrace.errors import Invalid
from headrace.feature.v1.feature_events_pb2 import FeatureRowChanged
from headrace.feature_view import StreamView
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_inference.adapters.feature_rows_reader import FeatureRowsReader
from headrace_inference.domain.request import Batch, Column, Door
from headrace_inference.testing import MemoryFeatureReader
from headrace_kit.testing import a_record

HERE, ELSEWHERE = [[1.0, 2.0]], [[7.0, 7.0]]
ASKED = ("zone:a", "zone:b")


def a_view(**more: object) -> StreamView:
    count = {"aggregate": "count", "window": "1h"}
    document = {
        "kind": "view",
        "name": "zone",
        "description": "Rides.",
        "stream": "rides",
        "entity": ["zone_id"],
        "features": {"a": count, "b": count},
        "publish_rows": True,
    }
    return StreamView.model_validate({**document, **more})


def digest(view: StreamView) -> str:
    return hashlib.sha256(definition_json(view)).hexdigest()


class Room:
    """A reader of one view, whose row of entity 5 holds from 100 to 200."""

    def __init__(self):
        self.service = MemoryFeatureReader({"zone:a": 7.0, "zone:b": 7.0, "ask:hour": 7.0})
        self.reader = FeatureRowsReader(["zone"], entities_max=10, service=self.service)

    def define(self, view: StreamView | None) -> None:
        spec = b"" if view is None else definition_json(view)
        message = Definition(kind="view", name="zone", spec_json=spec)
        value = None if view is None else message.SerializeToString()
        self.reader.take_definition(a_record(value, key=b"view/zone"))

    def row(self, entity="5", *, values=(2.0, 1.0), names=("b", "a"), view=None, **more) -> None:
        message = FeatureRowChanged(
            view="zone",
            entity=entity,
            features=names,
            values=np.array(values, "<f4").tobytes(),
            from_us=100,
            until_us=200,
            definition_digest=digest(view or a_view()),
        )
        self.take(message.SerializeToString(), entity.encode())

    def take(self, value, key=b"5") -> None:
        self.reader.takers()["zone"](a_record(value, key=key))

    def read(self, *zones, as_of=150, features=ASKED, column="zone_id", staleness_max_ms=0):
        moments = np.full(len(zones), as_of, dtype=np.int64)
        columns = (Column(column, list(zones)),)
        batch = Batch(
            Door.ENTITY_KEYS,
            ["e"] * len(zones),
            moments,
            columns=columns,
            staleness_max_ms=staleness_max_ms,
        )
        read = self.reader.read(features, batch, prediction_ids=["p"] * len(zones), timeout_s=1.0)
        return read.values.tolist()


@pytest.fixture
def room():
    made = Room()
    made.define(a_view())
    made.row()
    return made


def test_row_is_answered_without_the_service(room):
    assert HERE == room.read(5)
    assert HERE == room.read("5")
    assert [] == room.service.asked


@pytest.mark.parametrize("as_of", [99, 200])
def test_moment_that_the_row_does_not_answer_is_asked_of_the_service(room, as_of):
    assert ELSEWHERE == room.read(5, as_of=as_of)
    assert ["p"] == room.service.read_for


@pytest.mark.parametrize("zones", [(6,), (5, 6), ("",)])
def test_request_with_an_entity_that_is_not_here_is_asked_of_the_service(room, zones):
    assert ELSEWHERE * len(zones) == room.read(*zones)


def test_request_that_bounds_how_far_behind_it_is_read_is_asked_of_the_service(room):
    assert ELSEWHERE == room.read(5, staleness_max_ms=1)


def test_feature_of_another_view_is_asked_of_the_service(room):
    assert ELSEWHERE == room.read(5, features=("zone:a", "ask:hour"))


def test_feature_that_the_row_does_not_have_is_asked_of_the_service(room):
    room.row(names=("a", "c"))
    assert ELSEWHERE == room.read(5)


def test_request_without_the_entitys_column_is_asked_of_the_service(room):
    assert ELSEWHERE == room.read(5, column="other")


def test_row_of_another_definition_is_not_answered_until_a_new_one_comes(room):
    changed = a_view(ttl="1d")
    room.define(changed)
    assert ELSEWHERE == room.read(5)

    room.row(view=changed)
    assert HERE == room.read(5)


@pytest.mark.parametrize("view", [None, a_view(publish_rows=False)])
def test_view_that_publishes_no_more_is_asked_of_the_service(room, view):
    room.define(view)
    assert ELSEWHERE == room.read(5)


def test_entity_that_is_taken_back_is_asked_of_the_service(room):
    room.take(None)
    assert ELSEWHERE == room.read(5)


def test_record_that_is_no_row_is_refused(room):
    with pytest.raises(Invalid, match="DECODE_ERROR"):
        room.take(b"\xff")

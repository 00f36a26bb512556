# SPDX-License-Identifier: Apache-2.0
"""Definitions and rollouts reach the table; what cannot be read is set aside with its reason."""

import pytest

from headrace.application import definition_json
from headrace.errors import Conflict, Invalid
from headrace.registry.v1 import registry_events_pb2 as registry_pb
from headrace_inference.adapters.registry_reader import GENERATIONS_MAX, RegistryReader
from headrace_inference.domain.rollout import ServedVersion
from headrace_inference.domain.serving import ServingTable
from headrace_inference.testing import an_endpoint
from headrace_kit.testing import MemoryPublisher, a_record


class Room:
    def __init__(self):
        self.table, self.publisher, self.wakes = ServingTable(), MemoryPublisher(), 0
        self.reader = RegistryReader(self.table, dead_letters=self.publisher, on_wanted=self.count)

    def count(self):
        self.wakes += 1

    def reasons(self):
        return [dict(m.headers)["dl-reason"].decode() for m in self.publisher.published]


@pytest.fixture
def room():
    return Room()


def a_rollout_message(generation=1, **fields):
    champion = registry_pb.ServedVersion(version=3, digest="ab", features=["v:a", "v:b"])
    message = registry_pb.Rollout(
        endpoint="delay", model="m", generation=generation, champion=champion, **fields
    )
    return message.SerializeToString()


VIEW = b"""{"kind": "view", "name": "ask", "description": "The question.",
           "features": {"riders": {"transform": "value", "column": "riders"}}}"""


def a_definition(kind="endpoint", name="delay", spec=None):
    spec_json = definition_json(an_endpoint()) if spec is None else spec
    message = registry_pb.Definition(kind=kind, name=name, spec_json=spec_json)
    return a_record(message.SerializeToString(), key=f"{kind}/{name}".encode())


def test_rollout_is_wanted_and_wakes_the_loader(room):
    canary = registry_pb.ServedVersion(version=4, digest="cd")
    room.reader.take_rollout(a_record(a_rollout_message(canary=canary, canary_percent=20)))

    wanted = room.table.state("delay").wanted
    assert ServedVersion(3, "ab", ("v:a", "v:b")) == wanted.champion
    assert (4, 20, 1) == (wanted.canary.version, wanted.canary_percent, room.wakes)


def test_definition_wakes_the_loader_for_what_was_wanted_before_it(room):
    room.reader.take_rollout(a_record(a_rollout_message()))
    before = room.table.pending()
    room.reader.take_definition(a_definition())

    assert ([], 1, 2) == (before, len(room.table.pending()), room.wakes)


def test_generations_that_come_again_change_nothing(room):
    for generation in (4, 5, 4, 5):
        room.reader.take_rollout(a_record(a_rollout_message(generation)))

    assert (5, 2) == (room.table.state("delay").wanted.generation, room.wakes)


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(a_rollout_message(5, canary_percent=20), id="another under this number"),
        pytest.param(a_rollout_message(3), id="older than the first"),
    ],
)
def test_registry_that_was_put_back_is_told_and_what_it_says_refused(room, told):
    room.reader.take_rollout(a_record(a_rollout_message(5)))

    with pytest.raises(Conflict, match=r"GENERATION_REUSED.*newest=5"):
        room.reader.take_rollout(a_record(told))
    assert (5, 0, 1) == (
        room.table.state("delay").wanted.generation,
        room.table.state("delay").wanted.canary_percent,
        room.wakes,
    )

    room.reader.take_rollout(a_record(a_rollout_message(6)))
    assert (6, 2) == (room.table.state("delay").wanted.generation, room.wakes)


def test_of_generations_only_the_newest_are_remembered(room):
    for generation in range(1, 2 * GENERATIONS_MAX):
        room.reader.take_rollout(a_record(a_rollout_message(generation)))
    last = 2 * GENERATIONS_MAX - 1

    room.reader.take_rollout(a_record(a_rollout_message(last - GENERATIONS_MAX + 1)))
    with pytest.raises(Conflict, match="GENERATION_REUSED"):
        room.reader.take_rollout(a_record(a_rollout_message(last - GENERATIONS_MAX)))


def test_endpoint_is_defined_and_other_kinds_are_passed_over(room):
    room.reader.take_definition(a_definition())
    room.reader.take_definition(a_definition("view", "ask", VIEW))

    assert an_endpoint() == room.table.state("delay").definition
    assert ["delay"] == list(room.table.states())


def test_endpoint_that_was_taken_back_is_not_ready(room):
    room.reader.take_definition(a_definition())
    room.reader.take_definition(a_record(None, key=b"endpoint/delay"))
    room.reader.take_definition(a_record(None, key=b"endpoint/never"))

    assert room.table.state("delay").definition is None
    assert ["delay"] == list(room.table.states())
    with pytest.raises(Conflict, match="MODEL_NOT_READY"):
        room.table.ready("delay")


@pytest.mark.parametrize("value", [None, b"\xff\xff", b"", b"hello"])
def test_unreadable_rollout_is_set_aside(room, value):
    room.reader.take_rollout(a_record(value, topic="registry.rollouts.v1"))

    assert ["TOMBSTONE" if value is None else "DECODE_ERROR"] == room.reasons()
    assert {"inference.dead-letters.v1"} == {m.topic for m in room.publisher.published}
    assert {} == room.table.states()


@pytest.mark.parametrize("spec", [b"{", b"\xff", b'{"kind":"endpoint"}', b"[]"])
def test_unreadable_definition_is_invalid_and_not_set_aside(room, spec):
    with pytest.raises(Invalid, match="BAD_DEFINITION"):
        room.reader.take_definition(a_definition(spec=spec))

    assert [] == room.reasons()

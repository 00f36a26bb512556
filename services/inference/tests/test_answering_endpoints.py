# SPDX-License-Identifier: Apache-2.0
"""What requests are read follows what is served, with as few changes of the group as may be."""

import pytest

from headrace_inference.domain.serving import LoadedVersion, Serving, ServingTable
from headrace_inference.testing import a_rollout, an_endpoint
from headrace_kit.gathered_topics import GATHER_S_MAX, QUIET_S, GatheredTopics


class Room:
    def __init__(self):
        self.table, self.now_s = ServingTable(), 100.0
        self.topics = GatheredTopics(
            more_to_come=self.table.loading, monotonic_s=lambda: self.now_s
        )

    def want(self, *endpoints, generation=1, **fields):
        for endpoint in endpoints:
            self.table.define(an_endpoint(endpoint))
            self.table.want(a_rollout(endpoint=endpoint, generation=generation, **fields))

    def load(self, endpoint):
        rollout = self.table.state(endpoint).wanted
        self.table.install(Serving(rollout, LoadedVersion(rollout.champion, None), None))

    def refuse(self, endpoint):
        self.table.refuse(self.table.state(endpoint).wanted, "ARTIFACT_UNKNOWN")

    def read(self):
        """What is read once nothing has changed for a moment."""
        self.topics.want(self.table.answering())
        self.topics.choose()
        self.now_s += QUIET_S
        return self.topics.choose()


@pytest.fixture
def room():
    return Room()


def test_start_takes_all_endpoints_up_at_once(room):
    room.want("a", "b")
    assert set() == room.read()

    room.load("a")
    assert set() == room.read()

    room.load("b")
    assert {"a", "b"} == room.read()


def test_model_that_loads_for_long_holds_up_no_other(room):
    room.want("a", "b")
    room.load("a")
    assert set() == room.read()

    room.now_s += GATHER_S_MAX
    assert {"a"} == room.read()

    room.load("b")
    assert {"a", "b"} == room.read()


def test_time_is_counted_from_what_is_new_each_time(room):
    room.want("a")
    room.load("a")
    assert {"a"} == room.read()
    room.now_s += 10 * GATHER_S_MAX

    room.want("b", "c")
    room.load("b")
    assert {"a"} == room.read()
    room.now_s += GATHER_S_MAX
    assert {"a", "b"} == room.read()


def test_what_cannot_be_loaded_is_not_waited_for(room):
    room.want("a", "b")
    room.load("a")
    room.refuse("b")

    assert {"a"} == room.read()


def test_new_version_of_a_served_endpoint_changes_nothing(room):
    room.want("a")
    room.load("a")
    assert {"a"} == room.read()

    room.want("a", generation=2)
    assert {"a"} == room.read()


def test_stopped_endpoint_is_left_while_another_loads(room):
    room.want("a", "b")
    room.load("a")
    room.load("b")
    assert {"a", "b"} == room.read()

    room.want("b", generation=2, stopped=True)
    room.want("c")

    assert {"a"} == room.read()

# SPDX-License-Identifier: Apache-2.0
"""The loader follows what is wanted, tries again what may heal, and says when all is decided."""

import threading

import pytest

from headrace.errors import Busy, Corrupt, Denied, HeadraceError, Unavailable
from headrace_inference.adapters.grpc_clients import GrpcArtifactSource
from headrace_inference.adapters.rollout_loader import LASTING_TRIES_MAX, LOADS_MAX, RolloutLoader
from headrace_inference.domain.serving import LoadedVersion, Serving, ServingTable
from headrace_inference.testing import a_rollout, an_endpoint
from headrace_kit.testing import RefusingChannel, wait_until


class Room:
    """A loader whose `serve` installs at once, unless the test planned errors for an endpoint."""

    def __init__(self):
        self.table, self.errors, self.tries = ServingTable(), {}, []
        # Endpoints whose loads last until the test is over.
        self.slow, self.over = set(), threading.Event()
        self.loader = RolloutLoader(self.table, serve=self.serve)

    def serve(self, rollout):
        self.tries.append((rollout.endpoint, rollout.generation))
        if rollout.endpoint in self.slow:
            assert self.over.wait(60)
        planned = self.errors.get(rollout.endpoint, [])
        if planned:
            raise planned.pop(0)
        self.table.install(Serving(rollout, LoadedVersion(rollout.champion, None), None))

    def want(self, **fields):
        rollout = a_rollout(**fields)
        self.table.define(an_endpoint(rollout.endpoint))
        self.table.want(rollout)
        self.loader.wake()

    def served(self, endpoint="delay"):
        serving = self.table.state(endpoint).serving
        return serving.rollout.generation if serving else None


@pytest.fixture
def room():
    made = Room()
    yield made
    made.over.set()
    made.loader.stop(5.0)


def test_nothing_wanted_is_settled(room):
    room.loader.start(0.0)

    wait_until(room.loader.settled)


def test_wanted_rollout_is_served_once(room):
    room.loader.start(0.0)
    room.want()

    wait_until(lambda: room.served() == 1)
    room.want(generation=2)
    wait_until(lambda: room.served() == 2)
    assert [("delay", 1), ("delay", 2)] == room.tries


def test_dependency_that_is_down_is_waited_for_before_all_is_settled(room):
    room.errors["delay"] = [Unavailable("SERVICE_UNAVAILABLE")]
    room.want()
    room.loader.start(0.0)

    wait_until(lambda: room.table.state("delay").refused == "SERVICE_UNAVAILABLE")
    assert not room.loader.settled()
    wait_until(room.loader.settled)
    assert (1, None) == (room.served(), room.table.state("delay").refused)


def test_registry_that_refuses_the_token_is_waited_for_before_all_is_settled(room):
    source = GrpcArtifactSource(RefusingChannel(Denied("TOKEN_UNKNOWN")))
    with pytest.raises(HeadraceError) as refused:
        list(source.chunks("d" * 64))
    room.errors["delay"] = [refused.value]
    room.want()
    room.loader.start(0.0)

    wait_until(lambda: room.table.state("delay").refused == "SERVICE_UNAVAILABLE")
    assert not room.loader.settled()
    wait_until(room.loader.settled)
    assert 1 == room.served()


def test_corrupt_artifact_settles_is_told_and_heals(room):
    room.errors["delay"] = [Corrupt("DIGEST_MISMATCH"), Corrupt("DIGEST_MISMATCH")]
    room.want()
    room.loader.start(0.0)

    wait_until(room.loader.settled)
    wait_until(lambda: room.served() == 1)
    assert 3 == len(room.tries)


def test_one_broken_endpoint_does_not_hold_up_another(room):
    room.errors["broken"] = [Unavailable("SERVICE_UNAVAILABLE")] * 100
    room.want(endpoint="broken")
    room.loader.start(0.0)
    room.want(endpoint="delay")

    wait_until(lambda: room.served("delay") == 1)


def test_slow_models_hold_up_no_other_endpoint(room):
    room.slow = {f"slow-{number}" for number in range(LOADS_MAX - 1)}
    for number, endpoint in enumerate(sorted(room.slow), start=10):
        room.want(endpoint=endpoint, champion=number)
    room.loader.start(0.0)
    wait_until(lambda: len(room.tries) == len(room.slow))

    for generation in (1, 2, 3):
        room.want(endpoint="delay", generation=generation)
        wait_until(lambda expected=generation: room.served("delay") == expected)

    assert not room.loader.settled()
    room.over.set()
    wait_until(lambda: all(room.served(endpoint) for endpoint in room.slow))
    wait_until(room.loader.settled)


def test_loads_side_by_side_are_bounded_and_one_file_is_loaded_once_at_a_time(room):
    endpoints = [f"slow-{number}" for number in range(LOADS_MAX + 1)]
    room.slow = {*endpoints, "same-file"}
    room.want(endpoint="slow-0", champion=10)
    room.want(endpoint="same-file", champion=10)
    for number, endpoint in enumerate(endpoints[1:], start=11):
        room.want(endpoint=endpoint, champion=number)

    room.loader.start(0.0)

    wait_until(lambda: len(room.tries) == LOADS_MAX)
    assert [(endpoint, 1) for endpoint in endpoints[:LOADS_MAX]] == sorted(room.tries)
    room.over.set()
    wait_until(lambda: all(room.served(endpoint) for endpoint in room.slow))


def test_rollout_that_was_replaced_while_it_was_loaded_is_followed_by_the_newer_one(room):
    room.slow = {"delay"}
    room.want()
    room.loader.start(0.0)
    wait_until(lambda: room.tries)

    room.want(generation=2)
    room.errors["delay"] = [Unavailable("SERVICE_UNAVAILABLE")]
    room.over.set()

    wait_until(lambda: room.served() == 2)
    assert [("delay", 1), ("delay", 2)] == room.tries
    assert room.table.state("delay").refused is None


def test_start_returns_with_all_that_was_wanted_served(room):
    for number in range(10):
        room.want(endpoint=f"endpoint-{number}", champion=number)
    room.errors["endpoint-3"] = [Unavailable("SERVICE_UNAVAILABLE")]

    room.loader.start(60.0)

    assert [1] * 10 == [room.served(f"endpoint-{number}") for number in range(10)]


def test_start_waits_no_longer_than_it_may_nor_for_a_loader_that_ended(room):
    room.errors["delay"] = [Unavailable("SERVICE_UNAVAILABLE")] * 100
    room.want()
    room.loader.start(0.0)
    broken = Room()
    broken.errors["delay"] = [KeyError("a bug")]
    broken.want()

    broken.loader.start(3_600.0)

    assert isinstance(broken.loader.failed(), KeyError)


def test_stopped_endpoint_loads_nothing_until_it_is_started(room):
    room.want(stopped=True)
    room.want(endpoint="other", champion=7)
    room.loader.start(0.0)
    wait_until(lambda: room.served("other") == 1)
    wait_until(room.loader.settled)

    assert [("other", 1)] == room.tries
    room.want(generation=2)
    wait_until(lambda: room.served() == 2)


def test_version_that_was_replaced_while_its_endpoint_stood_still_answers_no_more(room):
    room.want(champion=1)
    room.loader.start(0.0)
    wait_until(lambda: room.served() == 1)
    room.slow = {"delay"}

    room.want(champion=1, generation=2, stopped=True)
    room.want(champion=2, generation=3, stopped=True)
    room.want(champion=2, generation=4)

    with pytest.raises(Unavailable, match="RESTORING"):
        room.table.ready("delay")
    room.over.set()
    wait_until(lambda: room.served() == 4)


def test_version_that_was_loaded_while_its_endpoint_stood_still_does_not_come_late(room):
    room.want(champion=1)
    late = Serving(a_rollout(1), LoadedVersion(a_rollout(1).champion, None), None)
    room.want(champion=1, generation=2, stopped=True)
    room.want(champion=2, generation=3)

    room.table.install(late)

    assert room.served() is None


def test_endpoint_that_is_taken_back_holds_and_loads_nothing_until_it_is_applied(room):
    room.want(champion=1)
    room.loader.start(0.0)
    wait_until(lambda: room.served() == 1)
    room.table.take_back("delay")
    room.table.want(a_rollout(2, generation=2))
    room.loader.wake()
    room.want(endpoint="other", champion=7)
    wait_until(lambda: room.served("other") == 1)
    wait_until(room.loader.settled)

    assert (None, [("delay", 1), ("other", 1)]) == (room.served(), room.tries)
    room.table.define(an_endpoint())
    room.loader.wake()
    wait_until(lambda: room.served() == 2)


def test_newer_rollout_is_tried_at_once(room):
    room.errors["delay"] = [Unavailable("SERVICE_UNAVAILABLE")]
    room.want()
    room.loader.start(0.0)
    wait_until(lambda: len(room.tries) == 1)

    room.want(generation=2)

    wait_until(lambda: room.served() == 2)
    assert [("delay", 1), ("delay", 2)] == room.tries


def test_bug_ends_the_loader_and_is_told(room):
    room.errors["delay"] = [KeyError("a bug")]
    room.want()
    room.loader.start(0.0)

    wait_until(lambda: isinstance(room.loader.failed(), KeyError))


def test_what_is_too_large_is_decided_and_not_tried_for_ever(room):
    room.errors["delay"] = [Busy("ARTIFACT_TOO_LARGE")] * 100
    room.want()
    room.loader.start(0.0)

    wait_until(room.loader.settled)
    wait_until(lambda: len(room.tries) == LASTING_TRIES_MAX)
    room.want(endpoint="other", generation=2)
    wait_until(lambda: room.served("other") == 2)
    assert LASTING_TRIES_MAX == len([each for each in room.tries if each[0] == "delay"])
    assert "ARTIFACT_TOO_LARGE" == room.table.state("delay").refused

    room.errors.clear()
    room.want(generation=2)
    wait_until(lambda: room.served() == 2)

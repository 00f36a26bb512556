# SPDX-License-Identifier: Apache-2.0
"""The loader follows what is wanted, tries again what may heal, and says when all is decided."""

import threading
import time

import pytest

from headrace.errors import Busy, Corrupt, Denied, HeadraceError, Unavailable
from headrace_inference.adapters.grpc_clients import GrpcArtifactSource
from headrace_inference.adapters.rollout_loader import LASTING_TRIES_MAX, RolloutLoader
from headrace_inference.domain.serving import LoadedVersion, Serving, ServingTable
from headrace_inference.testing import a_rollout
from headrace_kit.testing import RefusingChannel


class Room:
    """A loader whose `serve` installs at once, unless the test planned errors for an endpoint."""

    def __init__(self):
        self.table, self.errors, self.tries = ServingTable(), {}, []
        self.loader = RolloutLoader(self.table, serve=self.serve)

    def serve(self, rollout):
        self.tries.append((rollout.endpoint, rollout.generation))
        planned = self.errors.get(rollout.endpoint, [])
        if planned:
            raise planned.pop(0)
        self.table.install(Serving(rollout, LoadedVersion(rollout.champion, None), None))

    def want(self, **fields):
        self.table.want(a_rollout(**fields))
        self.loader.wake()

    def served(self, endpoint="delay"):
        serving = self.table.state(endpoint).serving
        return serving.rollout.generation if serving else None


@pytest.fixture
def room():
    made = Room()
    yield made
    made.loader.stop(5.0)


def wait_for(done):
    deadline_s, waiting = time.monotonic() + 10.0, threading.Event()
    while not done():
        assert time.monotonic() < deadline_s
        waiting.wait(0.005)


def test_nothing_wanted_is_settled(room):
    room.loader.start()

    wait_for(room.loader.settled)


def test_wanted_rollout_is_served_once(room):
    room.loader.start()
    room.want()

    wait_for(lambda: room.served() == 1)
    room.want(generation=2)
    wait_for(lambda: room.served() == 2)
    assert [("delay", 1), ("delay", 2)] == room.tries


def test_dependency_that_is_down_is_waited_for_before_all_is_settled(room):
    room.errors["delay"] = [Unavailable("SERVICE_UNAVAILABLE")]
    room.want()
    room.loader.start()

    wait_for(lambda: room.table.state("delay").refused == "SERVICE_UNAVAILABLE")
    assert not room.loader.settled()
    wait_for(room.loader.settled)
    assert (1, None) == (room.served(), room.table.state("delay").refused)


def test_registry_that_refuses_the_token_is_waited_for_before_all_is_settled(room):
    source = GrpcArtifactSource(RefusingChannel(Denied("TOKEN_UNKNOWN")))
    with pytest.raises(HeadraceError) as refused:
        list(source.chunks("d" * 64))
    room.errors["delay"] = [refused.value]
    room.want()
    room.loader.start()

    wait_for(lambda: room.table.state("delay").refused == "SERVICE_UNAVAILABLE")
    assert not room.loader.settled()
    wait_for(room.loader.settled)
    assert 1 == room.served()


def test_corrupt_artifact_settles_is_told_and_heals(room):
    room.errors["delay"] = [Corrupt("DIGEST_MISMATCH"), Corrupt("DIGEST_MISMATCH")]
    room.want()
    room.loader.start()

    wait_for(room.loader.settled)
    wait_for(lambda: room.served() == 1)
    assert 3 == len(room.tries)


def test_one_broken_endpoint_does_not_hold_up_another(room):
    room.errors["broken"] = [Unavailable("SERVICE_UNAVAILABLE")] * 100
    room.want(endpoint="broken")
    room.loader.start()
    room.want(endpoint="delay")

    wait_for(lambda: room.served("delay") == 1)


def test_newer_rollout_is_tried_at_once(room):
    room.errors["delay"] = [Unavailable("SERVICE_UNAVAILABLE")]
    room.want()
    room.loader.start()
    wait_for(lambda: len(room.tries) == 1)

    room.want(generation=2)

    wait_for(lambda: room.served() == 2)
    assert [("delay", 1), ("delay", 2)] == room.tries


def test_bug_ends_the_loader_and_is_told(room):
    room.errors["delay"] = [KeyError("a bug")]
    room.want()
    room.loader.start()

    wait_for(lambda: isinstance(room.loader.failed(), KeyError))


def test_what_is_too_large_is_decided_and_not_tried_for_ever(room):
    room.errors["delay"] = [Busy("ARTIFACT_TOO_LARGE")] * 100
    room.want()
    room.loader.start()

    wait_for(room.loader.settled)
    wait_for(lambda: len(room.tries) == LASTING_TRIES_MAX)
    room.want(endpoint="other", generation=2)
    wait_for(lambda: room.served("other") == 2)
    assert LASTING_TRIES_MAX == len([each for each in room.tries if each[0] == "delay"])
    assert "ARTIFACT_TOO_LARGE" == room.table.state("delay").refused

    room.errors.clear()
    room.want(generation=2)
    wait_for(lambda: room.served() == 2)

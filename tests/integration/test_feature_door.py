# SPDX-License-Identifier: Apache-2.0
"""Feature's grpcio door: reads that wait for other workers leave room for what these ask."""

from __future__ import annotations

import threading

import pytest

from headrace.errors import Busy
from headrace.feature.v1 import feature_service_pb2 as wire
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace.rpc import call, open_channel
from headrace_feature.app import NAME, PEER_NAME, READS_MAX, WORKERS, hot_reads
from headrace_kit.auth import Guard
from headrace_kit.grpc_server import GrpcServer
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.integration


class Waiting:
    """Reads that wait until they are let go."""

    def __init__(self):
        self.arrived, self.go = [], threading.Event()

    def __call__(self, calls):
        self.arrived += calls
        assert self.go.wait(20.0)
        return [each.payload for each in calls]


class Peer(service.ObservationServiceServicer):
    def NoteServed(self, request, context):  # noqa: N802 - gRPC's name
        return wire.NoteServedResponse()


@pytest.fixture
def reads():
    made = Waiting()
    yield made
    made.go.set()


@pytest.fixture
def channel(reads):
    server = GrpcServer(
        host="127.0.0.1",
        port=0,
        services=[
            (service.add_FeatureServiceServicer_to_server, service.FeatureServiceServicer()),
            (service.add_ObservationServiceServicer_to_server, Peer()),
        ],
        names=[NAME, PEER_NAME],
        guard=Guard("tests", None),
        workers=WORKERS,
        hot=[hot_reads(reads)],
    )
    with open_channel(f"127.0.0.1:{server.start()}") as made:
        yield made
    reads.go.set()
    server.stop(5.0)


def test_peers_are_answered_while_all_reads_are_held(channel, reads):
    read = channel.unary_unary(f"/{NAME}/GetOnlineFeatures")
    held = [read.future(b"held", timeout=30.0) for _ in range(READS_MAX)]
    wait_until(lambda: len(reads.arrived) == READS_MAX)
    more = [read.future(b"more", timeout=30.0) for _ in range(WORKERS)]
    note = service.ObservationServiceStub(channel).NoteServed

    assert wire.NoteServedResponse() == call(note, wire.NoteServedRequest(), timeout_s=10.0)
    with pytest.raises(Busy, match="QUEUE_FULL"):
        call(read, b"another", timeout_s=10.0)
    # Each is judged while the others still hold their places.
    refused = [str(each.exception(timeout=30.0)) for each in more]
    reads.go.set()
    assert [b"held"] * READS_MAX == [each.result() for each in held]
    assert all("QUEUE_FULL" in each for each in refused)

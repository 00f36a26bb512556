# SPDX-License-Identifier: Apache-2.0
"""What the two sides of a connection are told has to go together."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest

from headrace.rpc import open_channel
from headrace_kit.auth import Guard
from headrace_kit.grpc_server import GrpcServer

AGE = ("grpc.max_connection_age_ms", "grpc.max_connection_age_grace_ms")


@pytest.fixture
def told(monkeypatch):
    """The options of what was made last, by the function of gRPC that made it."""
    found = {}

    def note(name):
        make = getattr(grpc, name)

        def made(*given, options, **words):
            found[name] = dict(options)
            return make(*given, options=options, **words)

        monkeypatch.setattr(grpc, name, made)

    note("server")
    note("insecure_channel")
    return found


def a_server(**more):
    GrpcServer(
        host="127.0.0.1", port=0, services=[], names=["tests"], guard=Guard("tests", None), **more
    )


def test_channel_pings_less_often_than_a_server_ends_connections_for(told):
    """By default a server allows a ping in 5 minutes, and one in 2 hours where no call is open."""
    a_server()
    open_channel("127.0.0.1:1").close()
    channel, server = told["insecure_channel"], told["server"]

    allowed_ms = server["grpc.http2.min_ping_interval_without_data_ms"]
    assert allowed_ms < channel["grpc.keepalive_time_ms"]
    assert server["grpc.keepalive_permit_without_calls"]


def test_connections_grow_old_but_for_that_of_a_door(told):
    a_server()
    assert {*AGE} <= {*told["server"]}

    a_server(door=SimpleNamespace())
    assert {*AGE}.isdisjoint(told["server"])

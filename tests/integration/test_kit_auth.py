# SPDX-License-Identifier: Apache-2.0
"""Tokens at both doors over loopback: hot calls, other calls, streams, health and reflection."""

from __future__ import annotations

import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from headrace.errors import Denied
from headrace.feature.v1 import feature_service_pb2 as pb
from headrace.feature.v1 import feature_service_pb2_grpc as service
from headrace.rpc import call, error_of, open_channel
from headrace.tokens import issue_token
from headrace_kit.auth import Guard, calling
from headrace_kit.grpc_server import WATCHERS_MAX, GrpcServer
from headrace_kit.hot_calls import HotMethod, at_once
from headrace_kit.native_door import NativeDoor
from headrace_kit.testing import wait_until

pytestmark = pytest.mark.integration

NAME = "headrace.feature.v1.FeatureService"
PATH = f"/{NAME}/GetOnlineFeatures"


class Features(service.FeatureServiceServicer):
    """Answers with who calls."""

    def ListViews(self, request, context):  # noqa: N802 - gRPC's name
        return pb.ListViewsResponse(views=[pb.ViewState(view=calling().name)])

    def MaterializeView(self, request, context):  # noqa: N802 - gRPC's name
        yield pb.MaterializeViewResponse()

    def GetHistoricalFeatures(self, requests, context):  # noqa: N802 - gRPC's name
        for _ in requests:
            yield pb.GetHistoricalFeaturesResponse(arrow_ipc=calling().name.encode())


@pytest.fixture(params=["grpcio", "native"])
def server(request, tmp_path):
    tokens = tmp_path / "tokens.json"
    token = issue_token(tokens, "analyst", ["read"])
    hot = [HotMethod(PATH, at_once(lambda many: [b"<" + one.payload + b">" for one in many]))]
    native = request.param == "native"
    made = GrpcServer(
        host="127.0.0.1",
        port=0,
        services=[(service.add_FeatureServiceServicer_to_server, Features())],
        names=[NAME],
        guard=Guard("tests", tokens),
        hot=hot,
        door=NativeDoor("tests_auth", hot, folder=tmp_path / "door") if native else None,
    )
    made.address, made.token = f"127.0.0.1:{made.start()}", token
    yield made
    made.stop(5.0)


@pytest.fixture
def reader(server):
    with open_channel(server.address, token=server.token) as made:
        yield made


@pytest.fixture(params=["", "unknown"])
def stranger(server, request):
    with open_channel(server.address, token=request.param) as made:
        yield made


def streamed(answers):
    try:
        return list(answers)
    except grpc.RpcError as err:
        raise error_of(err) from err


def reflected(channel):
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = streamed(stub.ServerReflectionInfo(iter([asked]), timeout=5.0))
    return {each.name for each in answer.list_services_response.service}


def calls(channel):
    """A hot call, a unary one, and one with a stream each way."""
    stub = service.FeatureServiceStub(channel)
    asked = iter([pb.GetHistoricalFeaturesRequest()])
    return {
        "hot": lambda: call(channel.unary_unary(PATH), b"x", timeout_s=5.0),
        "unary": lambda: call(stub.ListViews, pb.ListViewsRequest(), timeout_s=5.0),
        "streams": lambda: streamed(stub.GetHistoricalFeatures(asked, timeout=5.0)),
        "reflection": lambda: reflected(channel),
    }


@pytest.mark.parametrize("kind", ["hot", "unary", "streams", "reflection"])
def test_call_without_a_known_token_is_unauthenticated(stranger, kind):
    with pytest.raises(Denied, match="TOKEN_UNKNOWN") as denied:
        calls(stranger)[kind]()

    assert grpc.StatusCode.UNAUTHENTICATED == denied.value.__cause__.code()


def test_known_caller_is_told_to_what_is_served(reader):
    made = calls(reader)

    assert b"<x>" == made["hot"]()
    assert "analyst" == made["unary"]().views[0].view
    assert [b"analyst"] == [each.arrow_ipc for each in made["streams"]()]
    assert NAME in made["reflection"]()


def test_known_caller_without_the_permission_is_denied(reader):
    stub = service.FeatureServiceStub(reader)
    with pytest.raises(Denied, match="ACTION_FORBIDDEN") as denied:
        streamed(stub.MaterializeView(pb.MaterializeViewRequest(), timeout=5.0))

    assert {"caller": "analyst", "action": "*"} == denied.value.metadata
    assert grpc.StatusCode.PERMISSION_DENIED == denied.value.__cause__.code()


def half_open(server, path):
    """A call of a stranger that sends its headers and no message; answers the channel."""
    channel = open_channel(server.address)
    never = threading.Event()

    def requests():
        never.wait(20.0)
        yield b""

    call = channel.stream_stream(path)(requests(), timeout=20.0)
    return channel, never, call


def test_strangers_who_send_no_message_hold_up_nobody(server, reader):
    opened = [
        half_open(server, f"/{NAME}/{method}")
        for method in ("ListViews", "MaterializeView", "GetHistoricalFeatures")
        for _ in range(8)
    ]
    codes = set()
    for _, _, refused in opened:
        with pytest.raises(grpc.RpcError) as raised:
            list(refused)
        codes.add(raised.value.code())

    assert {grpc.StatusCode.UNAUTHENTICATED} == codes
    assert "analyst" == calls(reader)["unary"]().views[0].view
    for channel, never, _ in opened:
        never.set()
        channel.close()


def test_strangers_who_watch_hold_up_nobody_and_there_is_an_end_to_them(server, reader):
    request = health_pb2.HealthCheckRequest()
    with open_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(request, timeout=20.0) for _ in range(WATCHERS_MAX)]
        states = {next(watch).status for watch in watches}
        assert {health_pb2.HealthCheckResponse.NOT_SERVING} == states
        with pytest.raises(grpc.RpcError) as refused:
            next(stub.Watch(request, timeout=5.0))
        assert grpc.StatusCode.RESOURCE_EXHAUSTED == refused.value.code()

        assert "analyst" == calls(reader)["unary"]().views[0].view
        watches[0].cancel()
        wait_until(lambda: watched(stub, request), timeout_s=5.0)


def watched(stub, request):
    try:
        return next(stub.Watch(request, timeout=5.0)) is not None
    except grpc.RpcError:
        return False


def test_health_is_open_to_all(stranger):
    answer = health_pb2_grpc.HealthStub(stranger).Check(
        health_pb2.HealthCheckRequest(), timeout=5.0
    )

    assert health_pb2.HealthCheckResponse.NOT_SERVING == answer.status

# SPDX-License-Identifier: Apache-2.0
"""What a called service denies is no fault of who called us, and who runs us is told."""

from __future__ import annotations

import grpc
import pytest
from structlog.testing import capture_logs

from headrace.errors import Denied, HeadraceError, Invalid, NotFound, Unavailable
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from headrace_kit import grpc_client
from headrace_kit.testing import RefusingChannel

DENIALS = [Denied("TOKEN_UNKNOWN"), Denied("ACTION_FORBIDDEN", caller="inference", action="read")]


def called(error: HeadraceError) -> HeadraceError:
    method = RegistryServiceStub(RefusingChannel(error)).ResolveModel
    with pytest.raises(HeadraceError) as raised:
        grpc_client.call(method, pb.ResolveModelRequest(), service="registry", timeout_s=1.0)
    return raised.value


def paged(error: HeadraceError) -> HeadraceError:
    method = RegistryServiceStub(RefusingChannel(error)).ListVersions
    request = pb.ListVersionsRequest()
    with pytest.raises(HeadraceError) as raised:
        list(grpc_client.pages(method, request, service="registry", timeout_s=1.0))
    return raised.value


def told(error: HeadraceError) -> HeadraceError:
    method = RegistryServiceStub(RefusingChannel(error)).ResolveModel
    try:
        method(pb.ResolveModelRequest(), timeout=1.0)
    except grpc.RpcError as err:
        return grpc_client.error_of(err, service="registry")
    raise AssertionError("it was refused")


@pytest.fixture(params=[called, paged, told])
def way(request):
    return request.param


@pytest.fixture(autouse=True)
def nothing_was_logged(monkeypatch):
    monkeypatch.setattr(grpc_client, "_logged_at_s", {})


@pytest.mark.parametrize("denied", DENIALS)
def test_denial_of_a_called_service_makes_it_unavailable(way, denied):
    received = way(denied)

    assert (Unavailable, "SERVICE_UNAVAILABLE") == (type(received), received.reason)
    assert {"service": "registry", "denied": denied.reason} == received.metadata


@pytest.mark.parametrize(
    "error", [Invalid("BAD_NAME", name="A"), NotFound("MODEL_UNKNOWN"), Unavailable("RESTORING")]
)
def test_other_errors_come_as_they_are(way, error):
    received = way(error)

    assert (type(error), error.reason) == (type(received), received.reason)
    assert error.metadata == received.metadata


def test_service_that_does_not_answer_is_named(way):
    received = way(Unavailable("SERVICE_UNAVAILABLE", state="draining"))

    assert {"service": "registry", "state": "draining"} == received.metadata


def test_service_that_the_called_one_misses_is_named_and_not_the_called_one(way):
    received = way(Unavailable("SERVICE_UNAVAILABLE", service="feature"))

    assert {"service": "feature"} == received.metadata


def test_log_tells_what_was_denied_once_for_each_service():
    with capture_logs() as lines:
        for denied in DENIALS * 2:
            called(denied)

    (line,) = lines
    assert ("own_token_refused", "error") == (line["event"], line["log_level"])
    assert ("registry", "TOKEN_UNKNOWN") == (line["service"], line["reason"])


def test_log_tells_it_again_after_a_while(monkeypatch):
    monkeypatch.setattr(grpc_client, "LOG_INTERVAL_S", 0.0)
    with capture_logs() as lines:
        for denied in DENIALS:
            called(denied)

    assert ["TOKEN_UNKNOWN", "ACTION_FORBIDDEN"] == [line["reason"] for line in lines]
    assert "caller=inference" in lines[1]["error"]

# SPDX-License-Identifier: Apache-2.0
"""What breaks off in the middle tells how much is durable; what passes is waited for."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Wrapped
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from headrace import publishing
from headrace.errors import Invalid, Unavailable
from headrace.ingest.v1 import ingest_service_pb2 as pb
from headrace.publishing import Item, publish_items

ITEMS = [Item(f"e{number}", b"k", b"{}") for number in range(10)]


class Refusal(grpc.RpcError):
    """Ends a call as ingest does for this reason."""

    def __init__(self, reason):
        self._detail = Wrapped()
        self._detail.Pack(ErrorInfo(domain="headrace", reason=reason))

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "refused"

    def trailing_metadata(self):
        status = Status(code=self.code().value[0], message="refused", details=[self._detail])
        return (("grpc-status-details-bin", status.SerializeToString()),)


class Door:
    """As much of a channel as publishing needs: takes so many batches of a call, then refuses."""

    def __init__(self, *refusals, takes=2):
        self.refusals, self.takes, self.taken = list(refusals), takes, []

    def unary_unary(self, *_, **__):
        return None

    def stream_stream(self, *_, **__):
        return self.publish

    def publish(self, requests, **_):
        for number, request in enumerate(requests):
            if self.refusals and number == self.takes:
                raise Refusal(self.refusals.pop(0))
            self.taken += [item.event_id for item in request.items]
            yield pb.PublishStreamResponse(items=len(request.items))


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(publishing, "BATCH_ITEMS_MAX", 2)
    monkeypatch.setattr(publishing, "RETRY_DELAY_S_MAX", 0.0)
    monkeypatch.setattr(publishing, "TOPIC_PATIENCE_S", 0.0)


def test_item_that_cannot_be_made_is_told_once_those_before_it_are_durable():
    door = Door()

    def items():
        yield from ITEMS[:5]
        raise Invalid("BAD_REQUEST", line=6, problem="no JSON")

    with pytest.raises(Invalid, match="BAD_REQUEST") as refused:
        publish_items(door, "rides", items())

    assert [item.event_id for item in ITEMS[:5]] == door.taken
    told = refused.value.metadata
    assert ("6", "5") == (told["line"], told["accepted"])
    assert "repeat" in told["again"]


def test_topic_that_is_missing_is_told_with_what_is_durable():
    door = Door("TOPIC_MISSING", "SERVICE_UNAVAILABLE")

    with pytest.raises(Unavailable, match="TOPIC_MISSING") as missing:
        publish_items(door, "rides", ITEMS)

    assert "4" == missing.value.metadata["accepted"]
    assert ["SERVICE_UNAVAILABLE"] == door.refusals  # it was not asked again


def test_what_passes_is_tried_again_and_counted_once():
    door = Door("SERVICE_UNAVAILABLE", "DELIVERY_UNKNOWN")

    published = publish_items(door, "rides", ITEMS)

    assert (10, []) == (published.accepted, published.refused)
    assert [item.event_id for item in ITEMS] == door.taken

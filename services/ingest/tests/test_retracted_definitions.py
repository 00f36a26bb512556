# SPDX-License-Identifier: Apache-2.0
"""What was taken back is asked of the registry, which alone remembers it."""

from __future__ import annotations

import pytest

from headrace.application import definition_json, parse_definition
from headrace.errors import Denied, Unavailable
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_ingest.adapters.grpc_retracted_definitions import GrpcRetractedDefinitions
from headrace_ingest.domain.contract import Contract
from headrace_ingest.testing import a_contract
from headrace_kit.testing import RefusingChannel

VIEW = parse_definition(
    {
        "kind": "view",
        "name": "delays",
        "description": "Delays.",
        "stream": "flights.departed",
        "entity": ["origin"],
        "features": {"departures": {"aggregate": "count", "window": "1h"}},
    }
)


class Registry:
    """A channel to one that took these back, a page each."""

    def __init__(self, *definitions):
        self.definitions, self.asked = definitions, []

    def unary_unary(self, *_, **__):
        return self.answer

    unary_stream = stream_unary = stream_stream = unary_unary

    def answer(self, request, **_):
        self.asked.append(request.retracted)
        place = int(request.page_token or 0)
        following = place + 1 if place + 1 < len(self.definitions) else ""
        each = self.definitions[place]
        told = Definition(
            kind=each.kind, name=each.name, version=3, spec_json=definition_json(each)
        )
        return pb.ListDefinitionsResponse(definitions=[told], next_page_token=str(following))


def test_streams_and_views_come_as_they_were_last():
    registry = Registry(a_contract().stream, VIEW)
    found = GrpcRetractedDefinitions(registry, pii_key=b"key").look_up()

    assert [Contract(a_contract().stream, 3, b"key")] == found.contracts
    assert ([VIEW], []) == (found.views, found.models)
    assert [True, True] == registry.asked


def test_refused_token_is_no_fault_of_who_erases():
    retracted = GrpcRetractedDefinitions(RefusingChannel(Denied("TOKEN_UNKNOWN")), pii_key=None)

    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=registry"):
        retracted.look_up()

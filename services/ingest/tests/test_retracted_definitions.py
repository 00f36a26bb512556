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


def test_labels_come_and_what_endpoints_called_their_entities():
    label = parse_definition(
        {
            "kind": "label",
            "name": "late",
            "description": "Was it late?",
            "stream": "flights.departed",
            "key": "flight",
            "value": "delay",
            "window": "1d",
        }
    )
    endpoint = parse_definition(
        {
            "kind": "endpoint",
            "name": "delay",
            "description": "Will it be late?",
            "model": "delay",
            "entity_key": "flight",
            "columns": {"flight": "string"},
            "rollout": {
                "canary_percent": 20,
                "outcomes_min": 10,
                "outcomes_max": 40,
                "alpha": 0.05,
            },
        }
    )
    tensors = parse_definition(
        {"kind": "endpoint", "name": "raw", "description": "By tensors.", "model": "delay"}
    )
    found = GrpcRetractedDefinitions(Registry(label, endpoint, tensors), pii_key=None).look_up()

    assert ([label], {"flight"}) == (found.labels, found.entity_columns)


def test_refused_token_is_no_fault_of_who_erases():
    retracted = GrpcRetractedDefinitions(RefusingChannel(Denied("TOKEN_UNKNOWN")), pii_key=None)

    with pytest.raises(Unavailable, match=r"SERVICE_UNAVAILABLE.*service=registry"):
        retracted.look_up()

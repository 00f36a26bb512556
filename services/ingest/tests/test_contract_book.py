# SPDX-License-Identifier: Apache-2.0
"""Contracts follow the registry's topic."""

from __future__ import annotations

import pytest

from headrace.application import definition_json
from headrace.errors import Invalid, NotFound
from headrace.registry.v1.registry_events_pb2 import Definition
from headrace_ingest.adapters.contract_book import AppliedContracts
from headrace_ingest.testing import a_contract
from headrace_kit.testing import a_record


def a_definition(version=1, **changes):
    stream = a_contract(**changes).stream
    return Definition(
        kind="stream", name=stream.name, version=version, spec_json=definition_json(stream)
    )


def taken(book, message):
    key = f"{message.kind}/{message.name}".encode()
    book.take(a_record(message.SerializeToString(), key=key))


@pytest.fixture
def told():
    return []


@pytest.fixture
def book(told):
    return AppliedContracts(told.append)


def test_applied_stream_is_known_and_told(book, told):
    taken(book, a_definition(version=3))

    assert a_contract(version=3) == book.get("flights.departed")
    assert [["flights.departed"]] == told


def test_newer_version_replaces_the_older_one_silently(book, told):
    taken(book, a_definition(version=1))
    taken(book, a_definition(version=2))

    assert (2, 1) == (book.get("flights.departed").version, len(told))


def test_stream_that_was_taken_back_is_unknown_and_told(book, told):
    taken(book, a_definition())
    book.take(a_record(None, key=b"stream/flights.departed"))

    assert [["flights.departed"], []] == told
    with pytest.raises(NotFound, match="STREAM_UNKNOWN"):
        book.get("flights.departed")


def test_all_contracts_of_a_moment_are_there_whatever_is_taken_back_meanwhile(book):
    taken(book, a_definition(version=3))
    seen = []
    for contract in book.all():
        book.take(a_record(None, key=b"stream/flights.departed"))
        seen.append(contract)

    assert [a_contract(version=3)] == seen
    assert [] == book.all()


def test_other_kinds_and_unknown_streams_change_nothing(book, told):
    view = b"""{"kind": "view", "name": "ask", "description": "The question.",
               "features": {"riders": {"transform": "value", "column": "riders"}}}"""
    taken(book, a_definition())
    taken(book, Definition(kind="view", name="ask", spec_json=view))
    book.take(a_record(None, key=b"view/flights.departed"))
    book.take(a_record(None, key=b"stream/other"))

    assert (["flights.departed"], 1) == (book.names(), len(told))


@pytest.mark.parametrize(
    "value",
    [b"\xff\xff", Definition(kind="stream", spec_json=b"{}").SerializeToString()],
    ids=["no protobuf", "no definition"],
)
def test_unreadable_definition_is_invalid(value, book):
    with pytest.raises(Invalid):
        book.take(a_record(value, key=b"stream/flights.departed"))


def test_unknown_stream_is_not_found(book):
    with pytest.raises(NotFound, match="STREAM_UNKNOWN"):
        book.get("flights.departed")

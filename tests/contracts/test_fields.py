# SPDX-License-Identifier: Apache-2.0
"""No field takes or tells a place: artifacts go by digest, and nothing is fetched for a caller."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

STUBS = Path(__file__).resolve().parents[2] / "libs/headrace/src"
PLACES = frozenset(
    {"path", "url", "uri", "location", "source", "href", "link", "file", "filename", "folder"}
    | {"dir", "directory", "bucket", "host", "address", "remote", "redirect", "mount"}
)
NO_PLACE = {
    "headrace.feature.v1.Filling.files": "how many there are",
    "headrace.feature.v1.Filling.files_done": "how many there are",
    "headrace.feature.v1.Filling.files_per_s": "how many there are",
    "headrace.registry.v1.VersionLineage.sources": "streams and runs, by name",
}


def messages(within: Any) -> Iterator[Any]:
    for message in within:
        yield message
        yield from messages(message.nested_types)


def fields() -> Iterator[Any]:
    for stub in sorted(STUBS.glob("headrace/**/*_pb2.py")):
        module = importlib.import_module(".".join(stub.relative_to(STUBS).with_suffix("").parts))
        for message in messages(module.DESCRIPTOR.message_types_by_name.values()):
            yield from message.fields


FIELDS = {field.full_name: field for field in fields()}


def names_a_place(name: str) -> bool:
    return bool(
        PLACES
        & {form for word in name.lower().split("_") for form in (word, word.removesuffix("s"))}
    )


def test_no_field_is_a_path_or_an_address() -> None:
    found = {full_name for full_name, field in FIELDS.items() if names_a_place(field.name)}

    assert set(NO_PLACE) == found, "take bytes by their digest; a count or a name is listed here"


def test_every_service_was_looked_at() -> None:
    owners = {full_name.split(".")[1] for full_name in FIELDS if full_name.startswith("headrace.")}

    assert {"feature", "inference", "ingest", "monitor", "registry", "trainer"} <= owners
    assert "inference.ModelInferRequest.model_name" in FIELDS


@pytest.mark.parametrize(
    "name", ["source_url", "path", "model_uris", "file_name", "Location", "address"]
)
def test_name_of_a_place_is_found(name: str) -> None:
    assert names_a_place(name)

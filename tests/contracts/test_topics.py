# SPDX-License-Identifier: Apache-2.0
"""The topic files hold together: closed schema, decodable examples, owners, a fresh picture."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from contracts.generate import PICTURED, with_picture
from google.protobuf import json_format, symbol_database

ROOT = Path(__file__).resolve().parents[2]
TOPIC_FILES = sorted((ROOT / "contracts/topics").glob("*.yaml"))
SCHEMA = json.loads((ROOT / "contracts/topic.schema.json").read_text())
CONTRACTS = {path.stem: yaml.safe_load(path.read_text()) for path in TOPIC_FILES}
PROTOBUF_TOPICS = [s for s, c in CONTRACTS.items() if c["message"].startswith("headrace.")]
EXAMPLES = [(stem, name) for stem, contract in CONTRACTS.items() for name in contract["examples"]]


def example(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "contracts/examples" / name).read_text())


def message_class(full_name: str) -> Any:
    package, _, name = full_name.rpartition(".")
    package = {"inference": "headrace.oip"}.get(package, package)
    for module in (ROOT / "libs/headrace/src" / package.replace(".", "/")).glob("*_pb2.py"):
        imported = importlib.import_module(f"{package}.{module.stem}")
        if hasattr(imported, name):
            return getattr(imported, name)
    raise LookupError(full_name)


@pytest.mark.parametrize("stem", CONTRACTS)
def test_topic_file_keeps_the_schema(stem: str) -> None:
    jsonschema.validate(CONTRACTS[stem], SCHEMA)


def test_misspelt_key_is_refused_by_the_schema() -> None:
    misspelt = {**CONTRACTS["raw"], "retention_hours": 1}

    with pytest.raises(jsonschema.ValidationError, match="retention_hours"):
        jsonschema.validate(misspelt, SCHEMA)


@pytest.mark.parametrize("stem", CONTRACTS)
def test_topic_is_named_after_its_file_and_owner(stem: str) -> None:
    topic = CONTRACTS[stem]["topic"]

    assert stem == topic.partition(".<")[0].removesuffix(".v1")
    # raw.* belongs to the users; ingest keeps its file.
    assert CONTRACTS[stem]["owner"] == topic.split(".")[0] or topic.startswith("raw.")


@pytest.mark.parametrize("stem", CONTRACTS)
def test_owner_publishes_or_answers_its_topic(stem: str) -> None:
    contract = CONTRACTS[stem]

    assert contract["owner"] in contract["publishers"] + contract["consumers"]


@pytest.mark.parametrize(("stem", "name"), EXAMPLES)
def test_example_decodes_as_the_topics_message(stem: str, name: str) -> None:
    kind, value = CONTRACTS[stem]["message"], example(name)["value"]

    if kind == "json":
        assert isinstance(value, dict)
    elif kind == "bytes":
        assert example(name)["headers"]["dl-reason"]
    else:
        decoded = json_format.ParseDict(value, message_class(kind)())
        again = type(decoded).FromString(decoded.SerializeToString())
        assert value == json_format.MessageToDict(again)


@pytest.mark.parametrize("stem", PROTOBUF_TOPICS)
def test_every_case_of_a_oneof_has_an_example(stem: str) -> None:
    contract = CONTRACTS[stem]
    descriptor = message_class(contract["message"]).DESCRIPTOR
    cases = {
        field.json_name
        for oneof in descriptor.oneofs
        if len(oneof.fields) > 1
        for field in oneof.fields
    }
    shown = {key for name in contract["examples"] for key in example(name)["value"]}

    assert cases <= shown


def test_every_example_file_belongs_to_a_topic() -> None:
    files = {path.name for path in (ROOT / "contracts/examples").glob("*.json")}

    assert files == {name for _, name in EXAMPLES}


def test_every_event_message_is_on_a_topic_or_inside_another() -> None:
    for module in (ROOT / "libs/headrace/src/headrace").rglob("*_events_pb2.py"):
        importlib.import_module(
            ".".join(module.relative_to(ROOT / "libs/headrace/src").with_suffix("").parts)
        )
    on_topics = {contract["message"] for contract in CONTRACTS.values()}
    database = symbol_database.Default()
    messages = {
        message.full_name: message
        for path in (ROOT / "protos").rglob("*_events.proto")
        for message in database.pool.FindFileByName(
            str(path.relative_to(ROOT / "protos"))
        ).message_types_by_name.values()
    }
    inside = {
        field.message_type.full_name
        for message in messages.values()
        for field in message.fields
        if field.message_type
    }

    assert set(messages) <= on_topics | inside


@pytest.mark.parametrize("page", PICTURED, ids=lambda page: page.name)
def test_picture_of_the_topology_shows_the_contracts(page: Path) -> None:
    text = page.read_text(encoding="utf-8")

    assert with_picture(text) == text, "run `make protos`"

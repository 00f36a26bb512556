# SPDX-License-Identifier: Apache-2.0
"""Lineage in both ways, over every store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from headrace.errors import Invalid, NotFound
from headrace_registry.domain.lineage import KINDS, ReadOffsets, Source, VersionLineage
from headrace_registry.domain.page import GetLineage
from headrace_registry.handlers.lineage import get_lineage
from headrace_registry.testing import DIGEST, MODEL, TENSORS_ENDPOINT, a_run, a_trained_model

MANIFEST = {
    "seed": "1",
    "training_set": "5e7",
    "definitions": "de7",
    "code": "c0de",
    "delta_version:flights": "12",
}


def from_source(registry: Any, name: str, kind: str = "") -> list[VersionLineage]:
    return get_lineage(GetLineage(kind, name, 0, ""), store=registry.store)[0]


def numbers(found: list[VersionLineage]) -> list[tuple[str, int]]:
    return [(each.model, each.version) for each in found]


@pytest.fixture
def trained(registry: Any) -> Any:
    """Two versions of runs over two versions of the archive, and one that was registered."""
    registry.apply(MODEL, TENSORS_ENDPOINT, request_id="declare")
    for number, at in ((1, "12"), (2, "13")):
        manifest = {**MANIFEST, "delta_version:flights": at}
        run = a_run(f"run-{number}", auc=0.7 + number / 100)
        registry.complete(replace(run, trained=replace(a_trained_model(), manifest=manifest)))
    registry.register()
    return registry


def test_version_tells_all_it_came_of_and_who_uses_it(trained: Any) -> None:
    (found,) = from_source(trained, "models:/delay@champion", "version")

    assert ("delay", 1) == (found.model, found.version)
    assert (
        Source("artifact", DIGEST),
        Source("code", "c0de"),
        Source("definitions", "de7"),
        Source("recipe", "delay"),
        Source("run", "run-1"),
        Source("stream", "flights", "12"),
        Source("training-set", "5e7"),
        Source("view", "origin-delay"),
    ) == found.sources
    assert (("champion",), ("delay",)) == (found.aliases, found.endpoints)


def test_version_tells_where_its_records_lay_in_the_raw_topics(registry: Any) -> None:
    registry.apply(MODEL, TENSORS_ENDPOINT, request_id="declare")
    offsets = {"raw_offsets:flights": "0:17-1233 10:0-0", "raw_offsets:airports": "0:5-9 nonsense"}
    trained = replace(a_trained_model(), manifest={**MANIFEST, **offsets})
    registry.complete(replace(a_run("run-1", auc=0.7), trained=trained))

    (found,) = from_source(registry, "models:/delay/1", "version")
    assert (
        ReadOffsets("airports", 0, 5, 9),
        ReadOffsets("flights", 0, 17, 1233),
        ReadOffsets("flights", 10, 0, 0),
    ) == found.read_offsets
    assert ["flights"] == [each.name for each in found.sources if each.kind == "stream"]


def test_version_whose_run_told_no_offsets_has_none(trained: Any) -> None:
    (found,) = from_source(trained, "models:/delay/1", "version")

    assert () == found.read_offsets


def test_canary_is_served_too(trained: Any) -> None:
    (found,) = from_source(trained, "models:/delay/2", "version")

    assert ((), ("delay",)) == (found.aliases, found.endpoints)


@pytest.mark.parametrize(
    ("kind", "name", "found"),
    [
        ("stream", "flights", [("delay", 1), ("delay", 2)]),
        ("run", "run-2", [("delay", 2)]),
        ("", "run-2", [("delay", 2)]),
        ("", DIGEST, [("delay", 1), ("delay", 2), ("fraud", 1)]),
        ("view", "origin-delay", [("delay", 1), ("delay", 2)]),
        ("view", "flights", []),
        ("", "nothing", []),
    ],
)
def test_source_tells_every_version_that_came_of_it(
    trained: Any, kind: str, name: str, found: list[tuple[str, int]]
) -> None:
    assert found == numbers(from_source(trained, name, kind))


@pytest.mark.parametrize("kind", ["", "artifact"])
@pytest.mark.parametrize("digits", [8, 20, 63])
def test_first_digits_of_a_digest_name_it(trained: Any, kind: str, digits: int) -> None:
    assert from_source(trained, DIGEST, kind) == from_source(trained, DIGEST[:digits], kind)


@pytest.mark.parametrize("name", [DIGEST[:7], f"{DIGEST[:8]}x", DIGEST[:-1] + "g", "0" * 8])
def test_what_is_no_part_of_a_digest_names_nothing(trained: Any, name: str) -> None:
    assert [] == from_source(trained, name)


def test_digits_with_which_several_names_begin_are_ambiguous(trained: Any) -> None:
    for number, code in ((3, "c0dec0de1"), (4, "c0dec0de2"), (5, "c0dec0de2f")):
        run = a_run(f"run-{number}")
        manifest = {**MANIFEST, "code": code}
        trained.complete(replace(run, trained=replace(a_trained_model(), manifest=manifest)))

    with pytest.raises(Invalid, match="AMBIGUOUS") as refused:
        from_source(trained, "c0dec0de")
    assert "3" == refused.value.metadata["candidates"]
    assert [("delay", 4)] == numbers(from_source(trained, "c0dec0de2"))  # as git has it
    assert [("delay", 4)] == numbers(from_source(trained, "c0dec0de2", "code"))
    assert [] == from_source(trained, "c0dec0de", "run")


def test_every_edge_leads_back(trained: Any) -> None:
    for version in from_source(trained, DIGEST):
        for source in version.sources:
            assert version in from_source(trained, source.name, source.kind)


def test_versions_of_a_source_come_in_pages(trained: Any) -> None:
    found, token = [], ""
    while len(found) < 4:
        page, token = get_lineage(GetLineage("", DIGEST, 1, token), store=trained.store)
        found += numbers(page)
        if not token:
            break

    assert [("delay", 1), ("delay", 2), ("fraud", 1)] == found


@pytest.mark.parametrize(
    ("kind", "name"), [("table", "x"), ("run", ""), ("run", "x" * 201), ("run", "x\n"), ("", "")]
)
def test_question_that_makes_no_sense_is_refused(registry: Any, kind: str, name: str) -> None:
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        from_source(registry, name, kind)


def test_token_of_another_source_is_refused(trained: Any) -> None:
    _, token = get_lineage(GetLineage("", DIGEST, 1, ""), store=trained.store)

    with pytest.raises(Invalid, match="page_token"):
        get_lineage(GetLineage("artifact", DIGEST, 1, token), store=trained.store)


def test_version_that_is_not_there_is_unknown(registry: Any) -> None:
    with pytest.raises(NotFound, match="VERSION_UNKNOWN"):
        from_source(registry, "models:/delay/7", "version")


def test_every_kind_may_be_asked_for(registry: Any) -> None:
    assert [[]] * len(KINDS) == [from_source(registry, "nothing", kind) for kind in KINDS]

# SPDX-License-Identifier: Apache-2.0
"""A graph gets its next version when an alias that its steps name is moved: once, and not often."""

from __future__ import annotations

import pytest

from headrace.errors import Conflict, Invalid
from headrace.model_reference import parse_reference
from headrace.registry.v1 import registry_events_pb2 as events
from headrace_kit.testing import FixedClock, a_record
from headrace_trainer.adapters.memory_run_store import MemoryRunStore
from headrace_trainer.adapters.version_book import RegistryVersionBook
from headrace_trainer.domain.run import RunState
from headrace_trainer.handlers import FOLLOW_INTERVAL_S, follow_aliases
from headrace_trainer.ports import NamedVersion
from headrace_trainer.testing import FakeVersions, OneRecipe, a_trained_model

GRAPH, ALIAS = "delay-guarded", "models:/delay@champion"


def versions_of(inside: int | None, *, named: int | None, generation: int = 1) -> FakeVersions:
    """The graph's newest version holds `delay/<inside>`, and the alias names `delay/<named>`."""
    versions = FakeVersions()
    if inside is not None:
        versions.inside[GRAPH] = frozenset({f"models:/delay/{inside}"})
    if named is not None:
        versions.aliases[ALIAS] = NamedVersion(f"models:/delay/{named}", generation)
    return versions


@pytest.fixture
def follow(runs: MemoryRunStore, clock: FixedClock):
    def act(versions: FakeVersions) -> list[str]:
        """The ids of all runs then, newest first."""
        now_us = clock.now_us()
        follow_aliases(now_us=now_us, runs=runs, recipes=OneRecipe(), versions=versions)
        return [run.run_id for run in runs.newest(9)]

    return act


def complete(runs: MemoryRunStore) -> None:
    lease, _ = runs.claim()
    runs.complete(lease, a_trained_model(model=GRAPH))


def test_moved_alias_makes_one_run_of_the_graph(runs: MemoryRunStore, follow) -> None:
    (run_id,) = follow(versions_of(1, named=2))

    assert [run_id] == follow(versions_of(1, named=2))
    assert (GRAPH, RunState.QUEUED) == (runs.get(run_id).request.recipe, runs.get(run_id).state)
    assert runs.get(run_id).published


@pytest.mark.parametrize(
    ("inside", "named"), [(2, 2), (None, 2), (1, None)], ids=["same", "no version", "no alias"]
)
def test_graph_has_nothing_to_follow(follow, inside: int | None, named: int | None) -> None:
    assert [] == follow(versions_of(inside, named=named))


def test_run_that_failed_is_not_asked_for_again_until_the_alias_moves(
    runs: MemoryRunStore, clock: FixedClock, follow
) -> None:
    follow(versions_of(1, named=2, generation=2))
    lease, _ = runs.claim()
    runs.fail(lease, "BAD_DEFINITION", "")
    clock.advance(FOLLOW_INTERVAL_S * 1_000_000)

    assert 1 == len(follow(versions_of(1, named=2, generation=2)))
    assert 2 == len(follow(versions_of(1, named=3, generation=3)))


def test_alias_that_goes_back_and_forth_is_followed_at_most_once_an_interval(
    runs: MemoryRunStore, clock: FixedClock, follow
) -> None:
    follow(versions_of(1, named=2, generation=2))
    complete(runs)
    for generation in range(3, 9):
        follow(versions_of(2, named=generation % 2 + 1, generation=generation))
    assert 1 == len(runs.newest(9))

    clock.advance(FOLLOW_INTERVAL_S * 1_000_000)

    assert 2 == len(follow(versions_of(2, named=1, generation=9)))


def test_graph_follows_no_further_while_its_run_waits(
    runs: MemoryRunStore, clock: FixedClock, follow
) -> None:
    follow(versions_of(1, named=2, generation=2))
    clock.advance(FOLLOW_INTERVAL_S * 1_000_000)

    assert 1 == len(follow(versions_of(1, named=3, generation=3)))
    complete(runs)
    assert 2 == len(follow(versions_of(2, named=3, generation=3)))


def moved(version: int, generation: int) -> events.ModelVersionEvent:
    event = events.ModelVersionEvent()
    alias = event.alias_moved.alias
    alias.model, alias.alias, alias.version = "delay", "champion", version
    alias.generation = generation
    return event


def registered(version: int, *components: str) -> events.ModelVersionEvent:
    event = events.ModelVersionEvent()
    told = event.version_registered.version
    told.model, told.version = GRAPH, version
    told.trained.manifest["code"] = "c" * 64
    for each in components:
        told.trained.manifest[f"component:{each}"] = "d" * 64
    return event


def book_of(*told: events.ModelVersionEvent) -> RegistryVersionBook:
    book = RegistryVersionBook()
    for event in told:
        book.follow(a_record(event.SerializeToString()))
    return book


def test_alias_in_the_book_never_goes_back() -> None:
    book = book_of(moved(1, 1), moved(2, 2), moved(1, 1))

    assert NamedVersion("models:/delay/2", 2) == book.alias(parse_reference(ALIAS))
    assert book.alias(parse_reference("delay@other")) is None


def test_move_that_was_another_one_before_is_told() -> None:
    with pytest.raises(Conflict, match=r"GENERATION_REUSED.*generation=2"):
        book_of(moved(1, 1), moved(2, 2), moved(3, 2))


def test_book_tells_what_is_inside_the_newest_version() -> None:
    book = book_of(registered(2, "models:/delay/2"), registered(1, "models:/delay/1"))

    assert frozenset({"models:/delay/2"}) == book.components(GRAPH)
    assert book.components("delay") is None


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(Invalid, match="DECODE_ERROR"):
        RegistryVersionBook().follow(a_record(b"\xff"))

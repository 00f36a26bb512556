# SPDX-License-Identifier: Apache-2.0
"""Lists: pages of any size join to the whole, and a token is good for its own list only.

A registry in use may be asked: what others change meanwhile is in no law, what stands still is.
"""

from __future__ import annotations

from functools import partial

import grpc
import pytest
from contracts.conformance.registry.asking import Registry, fresh, refused

from headrace.registry.v1 import registry_service_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
# Method, request, entries; those that name a model are of one of the suite's own.
LISTS = {
    "ListDefinitions": (pb.ListDefinitionsRequest, "definitions"),
    "ListModels": (pb.ListModelsRequest, "models"),
    "ListRollouts": (pb.ListRolloutsRequest, "rollouts"),
    "ListVersions": (pb.ListVersionsRequest, "versions"),
    "ListAliases": (pb.ListAliasesRequest, "aliases"),
    "ListAliasMoves": (pb.ListAliasMovesRequest, "moves"),
    "ListChanges": (pb.ListChangesRequest, "changes"),
}
OF_A_MODEL = ("ListVersions", "ListAliases", "ListAliasMoves", "ListChanges")
SIZE_MAX = 100


@pytest.fixture(scope="module")
def model(registry: Registry) -> str:
    """With three versions, aliases, moves and endpoints."""
    name = registry.registered(versions=3, endpoints=3)
    for seen in (1, 2):
        registry.move(name, 1 + seen % 2, seen)
    for alias in ("b", "a"):
        registry.move(name, 2, 0, alias=alias)
    return name


@pytest.fixture(params=LISTS)
def listed(request, lists):
    """`listed(**fields)` asks for a page; it tells the entries and the next token."""
    return lists(request.param)


@pytest.fixture
def lists(registry, model):
    """`lists(method)` is `listed` of that method."""

    def of(method):
        make, entries = LISTS[method]
        fixed = {"model": model} if method in OF_A_MODEL else {}
        if method == "ListAliasMoves":
            fixed["alias"] = "champion"

        def ask(**fields):
            page = registry.call(method, make(**{**fixed, **fields}))
            return [*getattr(page, entries)], page.next_page_token

        ask.method = method
        return ask

    return of


def joined(listed, size, *, meanwhile=lambda: None):
    found, token = listed(page_size=size)
    meanwhile()
    while token:
        assert len(found) % size == 0
        page, token = listed(page_size=size, page_token=token)
        assert page
        found += page
    return found


def whole(listed):
    found, token = listed()
    # The registry holds more than one page: what comes after is asked for too.
    return joined(listed, SIZE_MAX) if token else found


def assert_joined(before, pages, after):
    """The pages are the whole, of a list that changed meanwhile what is in it before and after."""
    if before == after:
        assert before == pages
        return
    known = {encoded(each) for each in after}
    stands = [one for one in map(encoded, before) if one in known]
    still = set(stands)
    assert stands == [one for one in map(encoded, pages) if one in still]


def encoded(entry):
    return entry.SerializeToString(deterministic=True)


@pytest.mark.parametrize("size", [1, 2, SIZE_MAX])
def test_pages_join_to_the_whole(listed, size):
    before, pages, after = whole(listed), joined(listed, size), whole(listed)

    assert len(before) >= 3 or listed.method == "ListModels"
    assert_joined(before, pages, after)


@pytest.mark.parametrize("method", ["ListDefinitions", "ListModels", "ListRollouts"])
def test_pages_hold_what_stands_still_while_others_register(lists, registry, method):
    listed = lists(method)
    before = whole(listed)
    pages = joined(listed, 1, meanwhile=registry.registered)
    after = whole(listed)

    assert len(after) > len(before)
    assert_joined(before, pages, after)


def test_page_is_no_larger_than_the_largest(listed):
    assert len(listed(page_size=10**9)[0]) <= SIZE_MAX


def test_negative_size_is_refused(listed):
    assert (INVALID, "BAD_REQUEST") == refused(lambda: listed(page_size=-1))


@pytest.mark.parametrize("token", ["x", "0", "1.2", "\n", "9" * 500])
def test_token_that_nobody_gave_is_refused(listed, token):
    assert (INVALID, "BAD_REQUEST") == refused(lambda: listed(page_token=token))


@pytest.mark.parametrize("method", [*OF_A_MODEL, "ListDefinitions", "ListRollouts"])
def test_token_that_was_changed_is_refused(lists, method):
    listed = lists(method)
    token = listed(page_size=1)[1]

    for changed in (f"9{token}", f"{token}0", token[1:], token[:-1], token.swapcase(), f" {token}"):
        assert (INVALID, "BAD_REQUEST") == refused(partial(listed, page_token=changed)), changed


def test_token_of_another_list_is_refused(listed, registry):
    other = "ListRollouts" if listed.method == "ListDefinitions" else "ListDefinitions"
    make, _ = LISTS[other]
    token = registry.call(other, make(page_size=1)).next_page_token

    assert (INVALID, "BAD_REQUEST") == refused(lambda: listed(page_token=token))


@pytest.mark.parametrize("method", OF_A_MODEL)
def test_list_of_a_model_that_is_not_there_is_refused(registry, method):
    fixed = {"alias": "champion"} if method == "ListAliasMoves" else {}
    request = LISTS[method][0](model=fresh("model"), **fixed)

    refusal = refused(lambda: registry.call(method, request))

    assert (grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN") == refusal


def test_moves_of_an_alias_that_never_was_are_refused(registry, model):
    request = pb.ListAliasMovesRequest(model=model, alias=fresh("alias"))

    refusal = refused(lambda: registry.call("ListAliasMoves", request))

    assert (grpc.StatusCode.NOT_FOUND, "ALIAS_UNKNOWN") == refusal


@pytest.mark.parametrize("page", [{"page_token": "x"}, {"page_size": -1}])
def test_lineage_of_a_version_takes_a_page_as_every_list_does(registry, model, page):
    request = pb.GetLineageRequest(kind="version", name=f"{model}/1", **page)

    refusal = refused(lambda: registry.call("GetLineage", request))

    assert (INVALID, "BAD_REQUEST") == refusal

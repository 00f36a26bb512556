# SPDX-License-Identifier: Apache-2.0
"""Lists: pages of any size join to the whole, and a token is good for its own list only."""

from __future__ import annotations

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
def listed(request, registry, model):
    """`listed(**fields)` asks for a page; it tells the entries and the next token."""
    method = request.param
    make, entries = LISTS[method]
    fixed = {"model": model} if method in OF_A_MODEL else {}
    if method == "ListAliasMoves":
        fixed["alias"] = "champion"

    def ask(**fields):
        page = registry.call(method, make(**{**fixed, **fields}))
        return [*getattr(page, entries)], page.next_page_token

    ask.method = method
    return ask


def joined(listed, size):
    found, token = listed(page_size=size)
    while token:
        assert len(found) % size == 0
        page, token = listed(page_size=size, page_token=token)
        assert page
        found += page
    return found


@pytest.mark.parametrize("size", [1, 2, SIZE_MAX])
def test_pages_join_to_the_whole(listed, size):
    whole, token = listed()
    if token:  # the registry holds more than one page: what comes after is asked for too
        whole = joined(listed, SIZE_MAX)

    assert len(whole) >= 3 or listed.method == "ListModels"
    assert whole == joined(listed, size)


def test_page_is_no_larger_than_the_largest(listed):
    assert len(listed(page_size=10**6)[0]) <= SIZE_MAX


def test_negative_size_is_refused(listed):
    assert (INVALID, "BAD_REQUEST") == refused(lambda: listed(page_size=-1))


@pytest.mark.parametrize("token", ["x", "0", "1.2", "\n", "9" * 500])
def test_token_that_nobody_gave_is_refused(listed, token):
    assert (INVALID, "BAD_REQUEST") == refused(lambda: listed(page_token=token))


def test_token_of_another_list_is_refused(listed, registry):
    other = "ListRollouts" if listed.method == "ListDefinitions" else "ListDefinitions"
    make, _ = LISTS[other]
    token = registry.call(other, make(page_size=1)).next_page_token

    assert (INVALID, "BAD_REQUEST") == refused(lambda: listed(page_token=token))


@pytest.mark.parametrize("method", ["ListVersions", "ListAliases"])
def test_list_of_a_model_that_is_not_there_is_refused(registry, method):
    request = LISTS[method][0](model=fresh("model"))

    refusal = refused(lambda: registry.call(method, request))

    assert (grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN") == refusal

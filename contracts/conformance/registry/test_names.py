# SPDX-License-Identifier: Apache-2.0
"""Names: each call refuses one outside the pattern before it looks it up, and a kind that none is.

The pattern is `[a-z0-9][a-z0-9-.]{0,127}`; kinds are words, for no request has an enum or a mask.
"""

from __future__ import annotations

from functools import partial

import grpc
import pytest
from contracts.conformance.registry.asking import fresh, refused

from headrace.registry.v1 import registry_service_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NAMES = (
    "No Name", "a/b", "../x", "%2e", "-a", ".a", "a" * 129, "é", "a\x00b",
    "'; drop table versions; --",
)  # fmt: skip
DIGEST = "0" * 64
# What each call is asked with a name: the method, and the field that takes the name.
NAMED = {
    ("ApplyDefinitions", "application"): pb.ApplyDefinitionsRequest,
    ("RetractDefinition", "name"): partial(pb.RetractDefinitionRequest, kind="model"),
    ("RegisterVersion", "model"): partial(pb.RegisterVersionRequest, digest=DIGEST),
    ("ApproveVersion", "model"): partial(pb.ApproveVersionRequest, version=1),
    ("RetractVersion", "model"): partial(pb.RetractVersionRequest, version=1),
    ("SignVersion", "model"): partial(pb.SignVersionRequest, version=1, bundle=b"{}"),
    ("DescribeVersion", "model"): partial(pb.DescribeVersionRequest, version=1),
    ("SetAlias", "model"): partial(pb.SetAliasRequest, alias="next", version=1),
    ("SetAlias", "alias"): partial(pb.SetAliasRequest, model="conformance", version=1),
    ("SetRollout", "endpoint"): partial(pb.SetRolloutRequest, generation_expected=1),
    ("ListVersions", "model"): pb.ListVersionsRequest,
    ("ListAliases", "model"): pb.ListAliasesRequest,
    ("ListAliasMoves", "model"): partial(pb.ListAliasMovesRequest, alias="champion"),
    ("ListAliasMoves", "alias"): partial(pb.ListAliasMovesRequest, model="conformance"),
    ("ListChanges", "model"): pb.ListChangesRequest,
    ("GetLineage", "name"): partial(pb.GetLineageRequest, kind="version"),
}


@pytest.mark.parametrize(("method", "field"), NAMED)
def test_name_outside_the_pattern_is_refused_by_every_call(registry, method, field):
    for name in NAMES:
        request = NAMED[method, field](**{field: name})
        if "request_id" in request.DESCRIPTOR.fields_by_name:
            request.request_id = fresh("named")
        assert (INVALID, "BAD_NAME") == refused(partial(registry.call, method, request)), name


@pytest.mark.parametrize("name", NAMES)
def test_reference_to_a_name_outside_the_pattern_is_refused(registry, name):
    assert (INVALID, "BAD_NAME") == refused(lambda: registry.resolve(f"models:/{name}/1"))


@pytest.mark.parametrize("kind", ["Model", "models", "é", "'; --"])
def test_kind_that_is_none_is_refused(registry, kind):
    asked = pb.GetLineageRequest(kind=kind, name="conformance")
    lineage = refused(lambda: registry.call("GetLineage", asked))
    retraction = refused(lambda: registry.retract(kind, "conformance"))
    document = {"kind": kind, "name": fresh("model"), "description": "Conformance."}

    assert [(INVALID, "BAD_REQUEST")] * 2 == [lineage, retraction]
    assert (INVALID, "BAD_DEFINITION") == refused(lambda: registry.apply(document))

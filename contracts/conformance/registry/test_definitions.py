# SPDX-License-Identifier: Apache-2.0
"""Definitions: all or none, versioned by their content, of one application; and the audit."""

from __future__ import annotations

import grpc
import pytest
from contracts.conformance.registry.asking import an_onnx_file, fresh, refused
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from headrace.registry.v1 import registry_service_pb2 as pb

SERVICES = {"headrace.registry.v1.RegistryService", "headrace.registry.v1.ArtifactService"}
BAD = (grpc.StatusCode.INVALID_ARGUMENT, "BAD_DEFINITION")


def a_model(name, **more):
    gate = {"metrics": {"accuracy": {"min": 0.5}}}
    return {"kind": "model", "name": name, "description": "Conformance.", "gate": gate, **more}


def an_endpoint(name, model):
    return {"kind": "endpoint", "name": name, "description": "Conformance.", "model": model}


def a_graph(name, model, **more):
    said = {"model": f"{model}@champion", "outputs": {"y": "float32"}}
    steps = {"said": said, "cut": {"expression": "LEAST(said, 0.9)"}}
    return {
        "kind": "graph",
        "name": name,
        "description": "Conformance.",
        "inputs": {"x": "float32[3]"},
        "steps": steps,
        "outputs": {"score": "cut"},
        **more,
    }


def stored(registry):
    found = registry.all("ListDefinitions", pb.ListDefinitionsRequest(), "definitions")
    return {(each.kind, each.name): each for each in found}


def test_registry_is_serving(registry):
    health = health_pb2_grpc.HealthStub(registry.channel)

    status = health.Check(health_pb2.HealthCheckRequest(), timeout=5).status

    assert health_pb2.HealthCheckResponse.SERVING == status


def test_services_are_told_by_reflection(registry):
    stub = reflection_pb2_grpc.ServerReflectionStub(registry.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    metadata = [("authorization", f"Bearer {registry.token}")] if registry.token else []

    (answer,) = stub.ServerReflectionInfo(iter([asked]), timeout=5, metadata=metadata)

    assert {each.name for each in answer.list_services_response.service} >= SERVICES


def test_applied_definition_is_stored_with_its_application(registry):
    name, application = fresh("model"), fresh("application")

    (applied,) = registry.apply(a_model(name), application=application)

    assert (1, application) == (applied.version, applied.application)
    assert applied == stored(registry)["model", name]


def test_unchanged_definition_keeps_its_version_and_a_changed_one_gets_the_next(registry):
    name, application = fresh("model"), fresh("application")
    registry.apply(a_model(name), application=application)

    (same,) = registry.apply(a_model(name), application=application)
    (changed,) = registry.apply(a_model(name, description="New."), application=application)

    assert (1, 2) == (same.version, changed.version)
    assert same.digest != changed.digest


def test_definitions_are_stored_all_or_none(registry):
    name = fresh("model")

    refusal = refused(lambda: registry.apply(a_model(name), an_endpoint(name, fresh("model"))))

    assert BAD == refusal
    assert ("model", name) not in stored(registry)


def test_name_belongs_to_one_application(registry):
    name = fresh("model")
    registry.apply(a_model(name))

    assert BAD == refused(lambda: registry.apply(a_model(name, description="Mine.")))


def test_endpoint_serves_one_model_for_good(registry):
    one, other, application = fresh("model"), fresh("model"), fresh("application")
    registry.apply(a_model(one), a_model(other), an_endpoint(one, one), application=application)

    moved = an_endpoint(one, other)

    assert BAD == refused(lambda: registry.apply(moved, application=application))


@pytest.mark.parametrize("change", [{"gaet": {}}, {"description": 7}, {"name": "No Name"}])
def test_definition_that_is_wrong_is_refused(registry, change):
    document = {**a_model(fresh("model")), **change}

    assert BAD == refused(lambda: registry.apply(document))


def test_repeat_of_an_apply_gets_the_first_answer(registry):
    told = {"application": fresh("application"), "request_id": fresh("apply")}
    document = a_model(fresh("model"))

    assert registry.apply(document, **told) == registry.apply(document, **told)


def test_endpoint_that_is_added_to_a_model_with_a_champion_serves_at_once(registry):
    name, application = fresh("model"), fresh("application")
    registry.apply(a_model(name), application=application)
    registry.register(name, registry.upload(an_onnx_file("shared")))

    registry.apply(an_endpoint(name, name), application=application)

    assert 1 == registry.rollout(name).champion.version


def test_every_change_of_a_model_is_told_with_who_and_why_newest_first(registry):
    model = registry.registered(versions=2)
    request_id = fresh("move")
    registry.move(model, 2, 1, request_id=request_id, reason="the season turned")
    registry.roll(f"{model}-1", 2, canary_version=1, reason="to compare")

    changes = registry.changes(model)

    actions = ["set_rollout", "set_alias", "register_version", "register_version"]
    assert actions == [each.action for each in changes]
    assert (request_id, "the season turned") == (changes[1].request_id, changes[1].reason)
    assert [each.number for each in changes] == sorted((c.number for c in changes), reverse=True)
    assert 1 == len({each.caller for each in changes})


def test_reason_of_a_registration_is_told(registry):
    model, digest = registry.declare(), registry.upload(an_onnx_file("shared"))
    registry.register(model, digest, reason="from the laboratory")

    assert "from the laboratory" == registry.changes(model)[0].reason


def test_refused_change_is_not_told(registry):
    model = registry.registered()
    before = [*registry.changes(model)]

    refusal = refused(lambda: registry.move(model, 7, 1))

    assert (grpc.StatusCode.NOT_FOUND, "VERSION_UNKNOWN") == refusal
    assert before == [*registry.changes(model)]


def test_graph_is_a_model_whose_versions_come_of_runs(registry):
    model, graph = fresh("model"), fresh("graph")
    registry.apply(a_model(model), a_graph(graph, model))

    digest = registry.upload(an_onnx_file("shared"))
    refusal = refused(lambda: registry.register(graph, digest))

    assert (grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST") == refusal
    listed = registry.all("ListModels", pb.ListModelsRequest(), "models")
    assert {model, graph} <= {each.name for each in listed}


def test_graph_of_a_version_that_is_not_there_is_refused(registry):
    model = fresh("model")
    steps = {"a": {"model": f"{model}/1", "outputs": {"y": "float32"}}}
    graph = a_graph(fresh("graph"), model, steps=steps, outputs={"score": "a"})

    refusal = refused(lambda: registry.apply(a_model(model), graph))

    assert (grpc.StatusCode.NOT_FOUND, "VERSION_UNKNOWN") == refusal


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": {"a": {"expression": "b + 1"}, "b": {"expression": "a + 1"}}},
        {"steps": {"a": {"expression": "nosuch + 1"}}},
        {"steps": {"a": {"model": "no-such-model/1", "outputs": {"y": "float32"}}}},
        {"steps": {"a": {"expression": "x", "kind": "extra"}}},
        {"outputs": {"score": "nosuch"}},
        {"inputs": {}},
        {"recipe": "no-such-recipe"},
    ],
)
def test_graph_that_could_never_answer_is_refused(registry, wrong):
    model = fresh("model")

    refusal = refused(
        lambda: registry.apply(a_model(model), a_graph(fresh("graph"), model, **wrong))
    )

    assert BAD == refusal


def test_definition_that_others_need_is_not_taken_back(registry):
    model = registry.declare()
    needed = (grpc.StatusCode.FAILED_PRECONDITION, "DEFINITION_NEEDED")

    assert needed == refused(lambda: registry.retract("model", model))
    assert ("model", model) in stored(registry)


def test_definition_that_is_taken_back_goes_and_comes_again_with_the_next_version(registry):
    name, application = fresh("model"), fresh("application")
    registry.apply(a_model(name), application=application)

    assert (name, 1) == ((was := registry.retract("model", name)).name, was.version)
    assert ("model", name) not in stored(registry)
    unknown = (grpc.StatusCode.NOT_FOUND, "DEFINITION_UNKNOWN")
    assert unknown == refused(lambda: registry.retract("model", name))
    (again,) = registry.apply(a_model(name), application=application)
    assert 2 == again.version

# SPDX-License-Identifier: Apache-2.0
"""Versions: numbered without a gap, judged by their gate, described, and never changed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from contracts.conformance.registry.asking import an_onnx_file, fresh, refusal_of, refused

from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as pb

FULL = (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
NOT_UPLOADED = (grpc.StatusCode.FAILED_PRECONDITION, "ARTIFACT_NOT_UPLOADED")
AT_ONCE = 8
PLACE_S, LOOK_INTERVAL_S = 60.0, 0.05


def approve(registry, model, version, **more):
    request = pb.ApproveVersionRequest(
        model=model, version=version, **{"request_id": fresh("approve"), **more}
    )
    return registry.call("ApproveVersion", request).version


def describe(registry, model, version, **more):
    request = pb.DescribeVersionRequest(
        model=model, version=version, **{"request_id": fresh("describe"), **more}
    )
    return registry.call("DescribeVersion", request).version


def numbers(registry, model):
    listed = registry.all("ListVersions", pb.ListVersionsRequest(model=model), "versions")
    return [each.version for each in listed]


def test_numbers_have_no_gap_when_many_register_at_once_and_some_are_refused(registry):
    model, digest = registry.declare(), registry.upload(an_onnx_file("shared"))

    def register(number):
        asked = "0" * 64 if number % 2 else digest
        try:
            return register_when_there_is_place(registry, model, asked)
        except grpc.RpcError as err:
            return refusal_of(err)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answered = [*pool.map(register, range(2 * AT_ONCE))]

    assert [*range(1, AT_ONCE + 1)] == sorted(answered[::2])
    assert [NOT_UPLOADED] * AT_ONCE == answered[1::2]
    assert [*range(AT_ONCE, 0, -1)] == numbers(registry, model)


def register_when_there_is_place(registry, model, digest):
    """A registry may say that it is busy; then it has registered nothing."""
    request_id, until_s, waiting = fresh("register"), time.monotonic() + PLACE_S, threading.Event()
    while True:
        try:
            return registry.register(model, digest, request_id=request_id).version
        except grpc.RpcError as err:
            if FULL != refusal_of(err) or time.monotonic() > until_s:
                raise
            waiting.wait(LOOK_INTERVAL_S)


def test_version_says_what_its_file_takes_and_gives(registry):
    model = registry.declare()

    version = registry.register(model, registry.upload(an_onnx_file()))

    told = [
        (each.name, each.datatype, [*each.shape])
        for each in (*version.signature.inputs, *version.signature.outputs)
    ]
    assert [("x", "FP32", [-1, 2]), ("y", "FP32", [-1, 2])] == told


def test_repeat_of_a_request_gets_the_first_answer_and_registers_nothing(registry):
    model, digest = registry.declare(), registry.upload(an_onnx_file("shared"))
    request_id = fresh("register")

    first = registry.register(model, digest, request_id=request_id)

    assert first == registry.register(model, digest, request_id=request_id)
    assert [1] == numbers(registry, model)


def test_request_id_that_asked_for_something_else_is_refused(registry):
    model, digest = registry.declare(), registry.upload(an_onnx_file("shared"))
    request_id = fresh("register")
    registry.register(model, digest, request_id=request_id)

    other = {"accuracy": 0.95, "request_id": request_id}
    refusal = refused(lambda: registry.register(model, digest, **other))

    assert (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_REUSED") == refusal


@pytest.mark.parametrize(
    ("accuracy", "state"),
    [
        (0.9, events.GATE_STATE_PASSED),
        (0.89, events.GATE_STATE_FAILED),
        (float("nan"), events.GATE_STATE_FAILED),
        (float("inf"), events.GATE_STATE_FAILED),
    ],
)
def test_gate_judges_the_metrics_and_says_why(registry, accuracy, state):
    model, digest = registry.declare(), registry.upload(an_onnx_file("shared"))

    version = registry.register(model, digest, accuracy=accuracy)

    assert state == version.gate.state
    assert version.gate.evidence


def test_first_version_that_passes_is_the_champion_and_the_next_is_not(registry):
    model = registry.registered(versions=2)

    assert (1, 1) == (registry.alias(model).version, registry.alias(model).generation)


def test_version_that_failed_is_kept_and_serves_nothing(registry):
    model, digest = registry.declare(), registry.upload(an_onnx_file("shared"))
    registry.register(model, digest, accuracy=0.1)

    assert [1] == numbers(registry, model)
    assert [] == [*registry.call("ListAliases", pb.ListAliasesRequest(model=model)).aliases]


def test_version_that_awaits_approval_serves_when_somebody_approved_it(registry):
    model = registry.declare(approval=True)
    waiting = registry.register(model, registry.upload(an_onnx_file("shared")))
    assert events.GATE_STATE_AWAITS_APPROVAL == waiting.gate.state

    approved = approve(registry, model, 1, approver="ann", reason="looked through")

    assert (events.GATE_STATE_PASSED, "ann") == (approved.gate.state, approved.gate.approver)
    assert 1 == registry.alias(model).version


def test_gate_that_is_settled_cannot_be_approved(registry):
    model, digest = registry.declare(), registry.upload(an_onnx_file("shared"))
    for accuracy in (1.0, 0.1):
        version = registry.register(model, digest, accuracy=accuracy).version

        refusal = refused(lambda number=version: approve(registry, model, number, approver="ann"))
        assert (grpc.StatusCode.FAILED_PRECONDITION, "GATE_SETTLED") == refusal


def retract(registry, model, version, **more):
    request = pb.RetractVersionRequest(
        model=model, version=version, **{"request_id": fresh("retract"), **more}
    )
    return registry.call("RetractVersion", request).version


def test_version_that_was_taken_back_is_kept_and_nothing_points_to_it(registry):
    model = registry.registered(versions=2)

    retracted = retract(registry, model, 2, reason="wrong rows")

    assert events.GATE_STATE_RETRACTED == retracted.gate.state
    assert "wrong rows" in retracted.gate.evidence[-1]
    assert retracted == registry.resolve(f"models:/{model}/2").version
    refusals = [refused(lambda: registry.move(model, 2, seen=1)),
                refused(lambda: retract(registry, model, 2))]  # fmt: skip
    assert [
        (grpc.StatusCode.FAILED_PRECONDITION, "GATE_NOT_PASSED"),
        (grpc.StatusCode.FAILED_PRECONDITION, "GATE_SETTLED"),
    ] == refusals


def test_version_that_an_alias_points_to_is_not_taken_back(registry):
    model = registry.registered()

    refusal = refused(lambda: retract(registry, model, 1))

    assert (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_NEEDED") == refusal
    assert events.GATE_STATE_PASSED == registry.resolve(f"models:/{model}/1").version.gate.state


def test_version_that_is_unknown_is_not_taken_back(registry):
    model = registry.registered()

    refusal = refused(lambda: retract(registry, model, 7))

    assert (grpc.StatusCode.NOT_FOUND, "VERSION_UNKNOWN") == refusal


def test_tags_and_card_change_and_nothing_else_does(registry):
    model, digest = registry.declare(), registry.upload(an_onnx_file("shared"))
    before = registry.register(model, digest, tags={"a": "1", "b": "2"}, card="# One")

    after = describe(registry, model, 1, tags_set={"c": "3"}, tags_removed=["a"], card="# Two")

    assert ({"b": "2", "c": "3"}, "# Two") == (dict(after.tags), after.card)
    before.tags.clear()
    before.tags.update(after.tags)
    before.card = after.card
    assert before == after == registry.resolve(f"models:/{model}/1").version


def test_card_that_is_not_named_stays(registry):
    model, digest = registry.declare(), registry.upload(an_onnx_file("shared"))
    registry.register(model, digest, card="# One")

    assert "# One" == describe(registry, model, 1, tags_set={"c": "3"}).card


def test_card_that_is_too_large_is_refused_and_changes_nothing(registry):
    model = registry.registered()

    refusal = refused(lambda: describe(registry, model, 1, tags_set={"a": "1"}, card="x" * 65_537))

    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "METADATA_TOO_LARGE") == refusal
    assert {} == dict(registry.resolve(f"models:/{model}/1").version.tags)


def test_more_tags_than_may_be_are_refused(registry):
    model = registry.registered()

    refusal = refused(lambda: describe(registry, model, 1, tags_set=dict.fromkeys(
        (f"tag-{number}" for number in range(10_001)), "")))  # fmt: skip

    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "METADATA_TOO_LARGE") == refusal


@pytest.mark.parametrize(
    "text", ["'; drop table versions; --", 'a" or 1=1', "%s :x $1 \\", "\u2028é"]
)
def test_text_that_means_something_to_a_database_is_kept_as_it_is(registry, text):
    model = registry.registered()

    describe(registry, model, 1, tags_set={"a": text}, card=text)

    kept = registry.resolve(f"models:/{model}/1").version
    assert (text, text) == (kept.tags["a"], kept.card)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"model": "no-such-model"}, (grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN")),
        ({"model": "No Name"}, (grpc.StatusCode.INVALID_ARGUMENT, "BAD_NAME")),
        ({"digest": "0" * 64}, NOT_UPLOADED),
        ({"request_id": "\n"}, (grpc.StatusCode.INVALID_ARGUMENT, "BAD_REQUEST")),
    ],
)
def test_registration_that_names_nothing_is_refused(registry, change, refusal):
    told = {"model": registry.declare(), "digest": registry.upload(an_onnx_file("shared"))}

    assert refusal == refused(lambda: registry.register(**{**told, **change}))


@pytest.mark.parametrize(
    ("reference", "refusal"),
    [
        ("models:/{model}/7", (grpc.StatusCode.NOT_FOUND, "VERSION_UNKNOWN")),
        ("models:/{model}@nobody", (grpc.StatusCode.NOT_FOUND, "ALIAS_UNKNOWN")),
        ("models:/{model}", (grpc.StatusCode.INVALID_ARGUMENT, "BAD_NAME")),
        ("models:/{model}/0", (grpc.StatusCode.INVALID_ARGUMENT, "BAD_NAME")),
        ("{model}/../x", (grpc.StatusCode.INVALID_ARGUMENT, "BAD_NAME")),
    ],
)
def test_reference_that_names_nothing_is_refused(registry, reference, refusal):
    model = registry.registered()

    assert refusal == refused(lambda: registry.resolve(reference.format(model=model)))


def test_reference_resolves_by_number_and_by_alias(registry):
    model = registry.registered(versions=2)

    by_number, by_alias = (registry.resolve(f"models:/{model}{end}") for end in ("/2", "@champion"))

    assert (2, False) == (by_number.version.version, by_number.HasField("alias"))
    assert (1, 1) == (by_alias.version.version, by_alias.alias.generation)


def test_lineage_leads_from_a_version_to_its_file_and_back(registry):
    model, digest = registry.declare(), registry.upload(an_onnx_file())
    registry.register(model, digest)

    asked = pb.GetLineageRequest(kind="version", name=f"models:/{model}@champion")
    (there,) = registry.call("GetLineage", asked).versions
    back = registry.all("GetLineage", pb.GetLineageRequest(name=digest), "versions")

    assert [there] == back
    assert ("artifact", digest) in [(each.kind, each.name) for each in there.sources]
    assert (["champion"], [f"{model}-1"]) == ([*there.aliases], [*there.endpoints])

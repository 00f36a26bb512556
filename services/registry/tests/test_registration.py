# SPDX-License-Identifier: Apache-2.0
"""Versions that were trained elsewhere, over every store."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

from headrace.errors import Busy, Conflict, Corrupt, Invalid, NotFound
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace_kit.auth import EVERYBODY, work_for
from headrace_kit.objects import MemoryObjectStore
from headrace_registry.adapters.grpc_api import (
    DOWNLOADS_MAX,
    UPLOADS_MAX,
    WORKERS,
    RegistryApi,
)
from headrace_registry.domain.acceptance import Finding
from headrace_registry.domain.artifact import artifact_key
from headrace_registry.domain.description import METRICS_MAX
from headrace_registry.domain.gate import GateState
from headrace_registry.domain.page import MODELS, ListByName
from headrace_registry.domain.version import ApproveVersion, DescribeVersion, ModelVersion
from headrace_registry.handlers.aliases import set_alias
from headrace_registry.handlers.artifacts import has_artifact
from headrace_registry.handlers.queries import list_models, resolve_model
from headrace_registry.handlers.versions import (
    approve_version,
    describe_version,
    register_version,
)
from headrace_registry.testing import (
    DIGEST,
    ENDPOINT,
    MODEL,
    RECIPE,
    TENSORS_ENDPOINT,
    a_file,
    a_registration,
    a_set_alias,
)

UNDECLARED_GATE = {key: value for key, value in MODEL.items() if key != "gate"}


@pytest.fixture
def declared(registry: Any) -> Any:
    """With a model whose gate reads two metrics, and its endpoint."""
    registry.apply(MODEL, TENSORS_ENDPOINT, request_id="declare")
    return registry


@pytest.fixture
def watched(registry: Any) -> Any:
    """With a model of which each version must be approved."""
    registry.apply(UNDECLARED_GATE, TENSORS_ENDPOINT, request_id="declare")
    return registry


def approve(registry: Any, version: int = 1, request_id: str = "approve-1", **said: str) -> Any:
    words = {"approver": "ann", "reason": "looked at it", **said}
    command = ApproveVersion(request_id, "fraud", version, words["approver"], words["reason"])
    return approve_version(command, caller="tests", store=registry.store, clock=registry.clock)


def describe(registry: Any, request_id: str = "describe-1", **change: Any) -> ModelVersion:
    command = DescribeVersion(
        request_id,
        "fraud",
        change.get("version", 1),
        change.get("tags_set", {}),
        change.get("tags_removed", ()),
        change.get("card"),
    )
    return describe_version(command, caller="tests", store=registry.store, clock=registry.clock)


def resolve(registry: Any, reference: str) -> tuple[int, int | None]:
    version, alias = resolve_model(reference, store=registry.store)
    return version.version, None if alias is None else alias.generation


def test_file_becomes_a_version_with_the_signature_that_it_declares(declared):
    version = declared.register(tags={"team": "risk"}, card="# Fraud")

    assert [version] == declared.versions("fraud")
    assert ("", (), DIGEST) == (version.run_id, version.trained.features, version.digest)
    assert [("x", "FP32", (-1, 2))] == [
        (each.name, each.datatype, each.shape) for each in version.signature.inputs
    ]
    assert ({"team": "risk"}, "# Fraud") == (version.description.tags, version.description.card)
    assert ["version/fraud/1", "gate/fraud/1", "alias/fraud/champion/1"] == declared.published(
        "model-versions"
    )


def test_file_that_was_looked_through_needs_no_room_on_disk_again(declared):
    def no_room():
        raise Busy("QUEUE_FULL")

    declared.register("first")
    command = a_registration("second")

    version = register_version(
        command,
        caller="tests",
        store=declared.store,
        artifacts=declared.artifacts,
        acceptor=declared.acceptor,
        spool=no_room,
        clock=declared.clock,
    )

    assert 2 == version.version


def test_registrations_and_transfers_leave_workers_to_others(declared):
    class Crowded(MemoryObjectStore):
        """Another comes while one reads, as many as the server has workers."""

        readers = 0

        def pieces(self, key):
            self.readers += 1
            if self.readers < WORKERS:
                register(f"reader-{self.readers}")
            yield from super().pieces(key)

    def register(name):
        request = pb.RegisterVersionRequest(
            request_id=name, model="fraud", digest=DIGEST, metrics={"accuracy": 0.95}
        )
        return copy_context().run(called, request)

    def called(request):
        work_for(EVERYBODY)
        return api.RegisterVersion(request, None).version.version

    declared.register("first")
    artifacts = Crowded()
    artifacts.put_if_absent(artifact_key(DIGEST), declared.artifacts.get(artifact_key(DIGEST)))
    api = RegistryApi(
        store=declared.store,
        artifacts=artifacts,
        acceptor=declared.acceptor,
        spool=a_file,
        verifier=declared.verifier,
        clock=declared.clock,
    )

    with pytest.raises(Busy, match="QUEUE_FULL"):
        register("reader-0")

    assert 8 == artifacts.readers
    assert artifacts.readers + UPLOADS_MAX + DOWNLOADS_MAX < WORKERS
    artifacts.readers = WORKERS
    assert 2 == register("later")


def test_file_that_was_looked_through_and_changed_since_is_no_version(declared):
    declared.register("first")
    declared.artifacts.delete(artifact_key(DIGEST))
    declared.artifacts.put_if_absent(artifact_key(DIGEST), b"changed")

    with pytest.raises(Corrupt, match="DIGEST_MISMATCH"):
        declared.register("second")

    assert not has_artifact(DIGEST, declared.artifacts)
    assert 1 == len(declared.versions("fraud"))


def test_first_version_that_passes_serves_with_its_signature(declared):
    version = declared.register()

    champion = declared.rollout("fraud").champion
    assert (1, (), version.signature) == (
        champion.version,
        champion.features,
        champion.signature,
    )


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        ({"accuracy": 0.89, "latency_ms": 2}, "accuracy must be at least 0.9; given 0.89."),
        ({"accuracy": 0.95, "latency_ms": 5.1}, "latency_ms must be at most 5; given 5.1."),
        ({"accuracy": 0.95}, "latency_ms must be at most 5; it was not given."),
        ({"accuracy": math.nan, "latency_ms": 2}, "not finite: accuracy"),
    ],
)
def test_version_that_misses_a_rule_of_its_model_is_kept_and_serves_nothing(
    declared, metrics, sentence
):
    version = declared.register(metrics=metrics)

    assert GateState.FAILED is version.gate.state
    assert sentence in " ".join(version.gate.evidence)
    with pytest.raises(Conflict, match="GATE_NOT_PASSED"):
        set_alias(
            a_set_alias(1, model="fraud", generation_expected=0),
            caller="tests",
            store=declared.store,
            clock=declared.clock,
        )


def test_file_that_answers_nan_is_kept_and_serves_nothing(declared):
    declared.acceptor.findings = (Finding(False, "Answers must be finite; not finite: y."),)

    version = declared.register()

    assert (GateState.FAILED, "Answers must be finite; not finite: y.") == (
        version.gate.state,
        version.gate.evidence[-1],
    )


def test_file_is_looked_through_once_for_all_its_versions(declared):
    declared.register("one")
    declared.acceptor.findings = (Finding(False, "Looked at again."),)

    assert declared.register("two").gate.passed


def test_later_version_waits_for_a_hand_where_no_canary_can_be_judged(declared):
    declared.register("one")
    declared.register("two")

    assert (1, None) == (
        declared.rollout("fraud").champion.version,
        declared.rollout("fraud").canary,
    )
    set_alias(
        a_set_alias(2, model="fraud"), caller="tests", store=declared.store, clock=declared.clock
    )
    assert 2 == declared.rollout("fraud").champion.version


def test_repeat_gets_the_first_answer_and_makes_no_second_version(declared):
    first = declared.register(metrics={"accuracy": 0.95, "latency_ms": math.nan})

    again = declared.register(metrics={"accuracy": 0.95, "latency_ms": math.nan})

    assert (1, 1) == (again.version, len(declared.versions("fraud")))
    assert first.gate == again.gate


def test_racing_registrations_have_numbers_without_gaps(declared):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: declared.register(f"race-{n}").version, range(12)))

    assert list(range(1, 13)) == sorted(made)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ({"model": "nobody"}, "MODEL_UNKNOWN"),
        ({"digest": "0" * 64}, "ARTIFACT_NOT_UPLOADED"),
    ],
)
def test_absent_model_or_artifact_is_named(declared, command, reason):
    with pytest.raises((NotFound, Conflict), match=reason):
        declared.register(**command)

    assert [] == declared.versions("fraud")


def test_model_of_a_recipe_takes_no_foreign_version(declared):
    with pytest.raises(Invalid, match="a recipe or a graph trains it"):
        declared.register(model="delay")


@pytest.mark.parametrize(
    ("latency_ms", "state", "sentence"),
    [
        (4.9, GateState.PASSED, "Latency must be at most 5 ms; measured 4.900 ms."),
        (5.1, GateState.FAILED, "Latency must be at most 5 ms; measured 5.100 ms."),
        (None, GateState.FAILED, "Latency must be at most 5 ms; it was not measured."),
    ],
)
def test_file_slower_than_its_model_allows_fails_whatever_its_caller_says(
    registry, latency_ms, state, sentence
):
    gate = {"metrics": {"accuracy": {"min": 0.9}}, "latency_ms_max": 5}
    registry.apply({**MODEL, "gate": gate}, TENSORS_ENDPOINT, request_id="declare")
    registry.acceptor.latency_ms = latency_ms

    version = registry.register(metrics={"accuracy": 0.95, "latency_ms": 1.0})

    assert state is version.gate.state
    assert sentence in version.gate.evidence


class TestApproval:
    def test_model_without_rules_asks_for_approval(self, watched):
        version = watched.register()

        assert GateState.AWAITS_APPROVAL is version.gate.state
        with watched.store.reading() as reader:
            assert ({}, []) == (
                reader.aliases("fraud"),
                [each for each in reader.rollouts() if each == "fraud"],
            )

    def test_no_alias_points_to_a_version_that_awaits_approval(self, watched):
        watched.register()

        with pytest.raises(Conflict, match="GATE_NOT_PASSED"):
            set_alias(
                a_set_alias(1, model="fraud", generation_expected=0),
                caller="tests",
                store=watched.store,
                clock=watched.clock,
            )

    def test_approved_version_serves_and_says_who_approved_it(self, watched):
        watched.register()

        approved = approve(watched)

        assert [approved] == watched.versions("fraud")
        assert ("ann", "Approved by ann: looked at it") == (
            approved.gate.approver,
            approved.gate.evidence[-1],
        )
        assert 1 == watched.rollout("fraud").champion.version
        assert [
            "version/fraud/1",
            "gate/fraud/1",
            "approval/fraud/1",
            "alias/fraud/champion/1",
        ] == (watched.published("model-versions"))

    def test_rules_come_before_the_approval(self, registry):
        gate = {**MODEL["gate"], "approval": True}
        registry.apply({**MODEL, "gate": gate}, request_id="declare")
        bad, good = registry.register("bad", metrics={}), registry.register("good")

        assert (GateState.FAILED, GateState.AWAITS_APPROVAL) == (bad.gate.state, good.gate.state)
        with pytest.raises(Conflict, match="GATE_SETTLED"):
            approve(registry, bad.version)

    def test_second_approval_is_a_conflict_and_a_repeat_is_none(self, watched):
        watched.register()
        first = approve(watched)

        assert first == approve(watched)
        with pytest.raises(Conflict, match="GATE_SETTLED"):
            approve(watched, request_id="approve-2")

    def test_approver_is_the_caller_unless_named(self, watched):
        watched.register()

        assert "tests" == approve(watched, approver="").gate.approver

    @pytest.mark.parametrize("said", [{"approver": "\u202e"}, {"reason": "a\nb"}])
    def test_approver_and_reason_are_one_plain_line(self, watched, said):
        watched.register()

        with pytest.raises(Invalid, match="BAD_REQUEST"):
            approve(watched, **said)


class TestDescription:
    def test_tags_and_card_change_and_are_published_whole(self, declared):
        declared.register(tags={"stage": "trial", "team": "risk"}, card="# One")

        described = describe(
            declared, tags_set={"stage": "live"}, tags_removed=("team", "absent"), card="# Two"
        )

        assert [described] == declared.versions("fraud")
        assert ({"stage": "live"}, "# Two") == (
            described.description.tags,
            described.description.card,
        )
        assert "description/fraud/1/1" == declared.published("model-versions")[-1]

    def test_card_stays_where_none_is_given(self, declared):
        declared.register(card="# One")

        assert "# One" == describe(declared, tags_set={"a": "b"}).description.card

    def test_trained_version_is_described_too(self, registry):
        registry.complete_runs(0.75)
        command = DescribeVersion("describe", "delay", 1, {"season": "winter"}, (), "# Delay")

        describe_version(command, caller="tests", store=registry.store, clock=registry.clock)

        assert {"season": "winter"} == registry.versions()[0].description.tags

    def test_sql_and_odd_letters_are_stored_as_they_are(self, declared):
        odd = "'; drop table versions; -- \u202e %s ? {}"

        declared.register(tags={"note": odd}, card=odd)

        said = declared.versions("fraud")[0].description
        assert (odd, odd) == (said.tags["note"], said.card)

    @pytest.mark.parametrize(
        "change",
        [
            {"card": "x" * (64 * 1024 + 1)},
            {"tags_set": {f"tag{n}": "" for n in range(10_001)}},
            {"card": "x" * 65_000, "tags_set": {"key": "x" * 600}},
        ],
    )
    def test_more_than_the_cap_is_refused_and_nothing_changes(self, declared, change):
        before = declared.register()

        with pytest.raises(Busy, match="METADATA_TOO_LARGE"):
            describe(declared, **change)

        assert [before] == declared.versions("fraud")

    def test_more_metrics_than_the_cap_are_refused_and_nothing_changes(self, declared):
        with pytest.raises(Busy, match="METADATA_TOO_LARGE"):
            declared.register(metrics={f"m{n}": 1.0 for n in range(METRICS_MAX + 1)})

        assert [] == declared.versions("fraud")

    @pytest.mark.parametrize(
        "change", [{"tags_set": {"": "x"}}, {"tags_set": {"a": "x\x00"}}, {"card": "\x00"}]
    )
    def test_what_no_database_keeps_is_refused(self, declared, change):
        declared.register()

        with pytest.raises(Invalid, match="BAD_REQUEST"):
            describe(declared, **change)

    def test_version_that_is_not_there_is_named(self, declared):
        with pytest.raises(NotFound, match="VERSION_UNKNOWN"):
            describe(declared, version=9)


class TestReferences:
    def test_version_is_found_by_number_and_by_alias(self, declared):
        declared.register("one")
        declared.register("two")

        assert (2, None) == resolve(declared, "models:/fraud/2")
        assert (1, 1) == resolve(declared, "models:/fraud@champion")
        assert (1, 1) == resolve(declared, "fraud@champion")

    @pytest.mark.parametrize(
        ("reference", "error", "reason"),
        [
            ("models:/fraud/9", NotFound, "VERSION_UNKNOWN"),
            ("models:/fraud@none", NotFound, "ALIAS_UNKNOWN"),
            ("models:/fraud", Invalid, "BAD_NAME"),
            ("models:/fraud/2147483648", Invalid, "BAD_NAME"),
            ("models:/../x/1", Invalid, "BAD_NAME"),
        ],
    )
    def test_what_names_nothing_is_told(self, declared, reference, error, reason):
        declared.register()

        with pytest.raises(error, match=reason):
            resolve(declared, reference)


class TestModels:
    def list(self, registry: Any, token: str = "", size: int = 0) -> Any:
        return list_models(ListByName(MODELS, size, token), store=registry.store)

    def test_declared_and_trained_models_are_listed_by_name(self, declared):
        declared.register()

        found = self.list(declared).models

        assert [("delay", 0, ()), ("fraud", 1, ("champion",))] == [
            (each.name, each.newest_version, tuple(a.alias for a in each.aliases)) for each in found
        ]

    def test_pages_hold_each_model_once(self, declared):
        first = self.list(declared, size=1)
        second = self.list(declared, first.next_page_token, size=1)

        assert ["delay", "fraud"] == [each.name for each in (*first.models, *second.models)]
        assert "" == second.next_page_token

    def test_changed_token_is_refused(self, declared):
        token = self.list(declared, size=1).next_page_token

        with pytest.raises(Invalid, match="page_token"):
            self.list(declared, f"x{token}")


class TestDefinitions:
    @pytest.mark.parametrize(
        ("documents", "problem"),
        [
            ([{**MODEL, "name": "delay"}], "a recipe trains it"),
            ([TENSORS_ENDPOINT], "no model or graph has that name"),
            ([MODEL, {**ENDPOINT, "name": "by-entity", "model": "fraud"}], "tensors only"),
            ([{**MODEL, "gate": {}}], "nothing would be judged"),
            ([{**MODEL, "gate": {"approval": True, "latency_ms_max": 0}}], "latency_ms_max"),
            ([{**MODEL, "gate": {"metrics": {"auc": {}}}}], "give min, max or both"),
            ([{**MODEL, "gate": {"metrics": {"auc": {"min": 2, "max": 1}}}}], "below min"),
            ([{**ENDPOINT, "rollout": None}], "rollout is needed"),
            ([{**ENDPOINT, "columns": {}}], "go together"),
            ([{**TENSORS_ENDPOINT, "staleness_max": "1m"}], "read by an entity_key"),
            ([{**ENDPOINT, "staleness_max": "0s"}], "positive duration"),
            (
                [{**ENDPOINT, "columns": {**ENDPOINT["columns"], "as_of_us": "int64"}}],
                "as_of_us means something else",
            ),
        ],
    )
    def test_model_or_endpoint_that_could_never_serve_is_refused(
        self, registry, documents, problem
    ):
        with pytest.raises(Invalid, match=problem):
            registry.apply(*documents, request_id="bad")

    def test_trained_model_may_be_asked_by_tensors_only(self, registry):
        registry.complete_runs(0.75)

        registry.apply({**TENSORS_ENDPOINT, "model": "delay"}, request_id="tensors")

        assert 1 == registry.rollout("fraud").champion.version
        assert RECIPE["features"] == list(registry.rollout("fraud").champion.features)

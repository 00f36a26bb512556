# SPDX-License-Identifier: Apache-2.0
"""What holds over every store: memory, SQLite, PostgreSQL."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError

from headrace.errors import Conflict, Invalid, NotFound
from headrace_registry.domain import definition
from headrace_registry.domain.acceptance import Acceptance
from headrace_registry.domain.alias import Alias, SetAlias
from headrace_registry.domain.definition import SPEC_BYTES_MAX, Definition
from headrace_registry.domain.gate import GateState
from headrace_registry.domain.page import ListByName, ListChanges, ListVersions
from headrace_registry.domain.rollout import CanaryJudged, Rollout, SetRollout
from headrace_registry.domain.signature import Signature
from headrace_registry.handlers.aliases import set_alias
from headrace_registry.handlers.definitions import apply_definitions
from headrace_registry.handlers.queries import (
    list_aliases,
    list_changes,
    list_definitions,
    list_versions,
)
from headrace_registry.handlers.rollouts import judge_canary, set_rollout
from headrace_registry.testing import (
    DEFINITIONS,
    DIGEST,
    ENDPOINT,
    FLIGHTS,
    RECIPE,
    a_run,
    a_set_alias,
    a_set_rollout,
    a_verdict,
    an_apply,
)


def move(registry: Any, command: SetAlias) -> Alias:
    return set_alias(command, caller="tests", store=registry.store, clock=registry.clock)


def roll(registry: Any, command: SetRollout) -> Rollout:
    return set_rollout(command, caller="tests", store=registry.store, clock=registry.clock)


def all_definitions(registry: Any) -> list[Definition]:
    return [*list_definitions(ListByName("", 0, ""), store=registry.store)[0]]


def judge(registry: Any, verdict: CanaryJudged) -> None:
    judge_canary(verdict, store=registry.store, clock=registry.clock)


class TestDefinitions:
    def test_applied_definitions_are_listed_streams_first(self, registry):
        found = all_definitions(registry)

        assert [(d["kind"], d["name"], 1) for d in DEFINITIONS] == [
            (each.kind, each.name, each.version) for each in found
        ]

    def test_definition_larger_than_its_record_may_be_is_refused_and_nothing_changes(
        self, registry
    ):
        before = all_definitions(registry), registry.published()
        large = {**FLIGHTS, "name": "large", "description": "x" * SPEC_BYTES_MAX}

        with pytest.raises(Invalid, match="are taken at most"):
            registry.apply(large, request_id="large")

        assert before == (all_definitions(registry), registry.published())

    def test_event_that_no_topic_takes_takes_its_command_with_it(self, sql, monkeypatch):
        monkeypatch.setattr(definition, "SPEC_BYTES_MAX", 4 << 20)
        before = all_definitions(sql), sql.published()
        large = {**FLIGHTS, "name": "large", "description": "x" * (1 << 20)}

        with pytest.raises(Invalid, match="TOO_LARGE"):
            sql.apply(large, request_id="large")

        assert before == (all_definitions(sql), sql.published())

    def test_unchanged_definition_keeps_its_version_and_is_not_published(self, registry):
        before = registry.published()

        applied = registry.apply(request_id="again")

        assert [1, 1, 1, 1] == [each.version for each in applied.definitions]
        assert before == registry.published()

    def test_changed_definition_gets_the_next_version_and_is_published(self, registry):
        changed = {**RECIPE, "description": "Another one."}

        applied = registry.apply(changed, request_id="change")

        assert [2] == [each.version for each in applied.definitions]
        assert "definition/recipe/delay/2" == registry.published("definitions")[-1]

    def test_part_of_an_application_is_checked_with_what_is_stored(self, registry):
        second = {**ENDPOINT, "name": "delay-b"}

        applied = registry.apply(second, request_id="second")

        assert ["delay-b"] == [each.name for each in applied.definitions]

    def test_racing_applies_lose_nothing_and_have_one_order(self, registry):
        """Each adds an endpoint and changes the recipe that all of them share."""

        def race(number: int) -> int:
            own = {**ENDPOINT, "name": f"delay-{number}"}
            shared = {**RECIPE, "description": f"By {number}."}
            applied = registry.apply(own, shared, request_id=f"race-{number}").definitions
            [recipe] = [each for each in applied if each.kind == "recipe"]
            return int(recipe.version)

        with ThreadPoolExecutor(8) as pool:
            versions = list(pool.map(race, range(12)))

        stored = all_definitions(registry)
        assert {f"delay-{number}" for number in range(12)} <= {each.name for each in stored}
        assert list(range(2, 14)) == sorted(versions)
        last = f'"By {versions.index(13)}."'
        [recipe] = [each for each in stored if each.kind == "recipe"]
        assert (13, True) == (recipe.version, last in recipe.spec_json)
        told = [e for e in registry.published("definitions") if e.startswith("definition/recipe/")]
        assert [f"definition/recipe/delay/{number}" for number in range(1, 14)] == told

    def test_of_racing_applies_a_bad_one_leaves_nothing_of_itself(self, registry):
        def race(number: int) -> None:
            good = {**ENDPOINT, "name": f"delay-{number}"}
            bad = {**ENDPOINT, "name": f"bad-{number}", "model": "none"}
            try:
                registry.apply(good, *[bad] * (number % 2), request_id=f"race-{number}")
            except Invalid:
                assert number % 2

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(race, range(8)))

        names = {each.name for each in all_definitions(registry)}
        raced = {name for name in names if name.startswith(("delay-", "bad-"))}
        assert {f"delay-{number}" for number in (0, 2, 4, 6)} == raced

    def test_nothing_is_stored_when_one_definition_is_bad(self, registry):
        before = registry.published()
        good, bad = {**ENDPOINT, "name": "good"}, {**ENDPOINT, "name": "bad", "model": "none"}

        with pytest.raises(Invalid, match="no recipe trains model none"):
            registry.apply(good, bad, request_id="bad")

        assert before == registry.published()

    def test_name_of_another_application_is_refused(self, registry):
        with pytest.raises(Invalid, match="belongs to application tests"):
            registry.apply(*DEFINITIONS, request_id="theirs", application="theirs")

    def test_endpoint_keeps_its_model(self, registry):
        other = {**RECIPE, "name": "other", "model": "other"}

        with pytest.raises(Invalid, match="serves delay for good"):
            registry.apply(other, {**ENDPOINT, "model": "other"}, request_id="move")


class TestRequests:
    def test_repeat_of_apply_gets_the_first_answer(self, registry):
        first = registry.apply({**RECIPE, "description": "New."}, request_id="same")
        registry.apply({**RECIPE, "description": "Newer."}, request_id="other")

        assert first == registry.apply({**RECIPE, "description": "New."}, request_id="same")

    def test_repeat_of_set_alias_gets_the_first_answer(self, registry):
        registry.complete_runs(0.75, 0.76)
        first = move(registry, a_set_alias(2))
        move(registry, a_set_alias(1, generation_expected=2, request_id="later"))
        registry.clock.advance(1)

        assert first == move(registry, a_set_alias(2))
        assert (1, 3) == registry.champion()

    def test_request_id_with_other_content_is_a_conflict(self, registry):
        registry.complete_runs(0.75, 0.76)
        move(registry, a_set_alias(2))

        with pytest.raises(Conflict, match="REQUEST_REUSED"):
            move(registry, a_set_alias(1, generation_expected=2))

    def test_failed_request_may_be_sent_again(self, registry):
        registry.complete_runs(0.75)
        with pytest.raises(NotFound, match="VERSION_UNKNOWN"):
            move(registry, a_set_alias(2))
        registry.complete(a_run("run-2"))

        assert 2 == move(registry, a_set_alias(2)).version


class TestVersions:
    def test_first_version_that_passes_serves_at_once(self, registry):
        registry.complete_runs(0.75)

        assert (1, 1) == registry.champion()
        rollout = registry.rollout()
        assert (1, 1, None, "first version") == (
            rollout.generation,
            rollout.champion.version,
            rollout.canary,
            rollout.change,
        )
        assert ("origin-delay:mean_1h",) == rollout.champion.features
        assert ["version/delay/1", "gate/delay/1", "alias/delay/champion/1"] == registry.published(
            "model-versions"
        )

    def test_version_that_fails_its_gate_is_kept_with_its_evidence_and_serves_nothing(
        self, registry
    ):
        registry.complete_runs(0.65)

        (version,) = registry.versions()
        assert not version.gate.passed
        assert "AUC must reach 0.7000; measured 0.6500 on 1000 rows." in version.gate.evidence
        assert [] == registry.published("rollouts")

    def test_later_version_that_passes_starts_a_canary(self, registry):
        registry.complete_runs(0.75, 0.76)

        rollout = registry.rollout()
        assert (1, 1) == registry.champion()
        assert (2, 1, 2, 20) == (
            rollout.generation,
            rollout.champion.version,
            rollout.canary.version,
            rollout.canary_percent,
        )

    def test_newer_version_takes_the_place_of_a_running_canary(self, registry):
        registry.complete_runs(0.75, 0.76, 0.77)

        rollout = registry.rollout()
        assert (3, 3) == (rollout.generation, rollout.canary.version)
        assert "instead of v2" in rollout.change

    def test_version_worse_than_the_champion_fails_its_gate(self, registry):
        registry.complete(a_run("run-1", auc=0.75))
        registry.complete(a_run("run-2", auc=0.75, champion_auc=0.77))

        assert [False, True] == [each.gate.passed for each in registry.versions()]

    def test_version_slower_than_its_recipe_allows_fails_its_gate_and_serves_nothing(
        self, registry
    ):
        within_budget = {**RECIPE, "gate": {**RECIPE["gate"], "latency_ms_max": 5}}
        registry.apply(within_budget, request_id="apply-2")
        registry.complete(a_run("run-1", latency_ms=31.4))

        (slow,) = registry.versions()
        assert GateState.FAILED is slow.gate.state
        assert "Latency must be at most 5 ms; measured 31.400 ms." in slow.gate.evidence
        with pytest.raises(Conflict, match="GATE_NOT_PASSED"):
            set_alias(
                a_set_alias(1, generation_expected=0),
                caller="tests",
                store=registry.store,
                clock=registry.clock,
            )
        registry.complete(a_run("run-2", latency_ms=5.0))
        assert (2, 1) == registry.champion()

    def test_repeated_event_has_no_effect(self, registry):
        registry.complete_runs(0.75)
        before = registry.published()

        registry.complete_runs(0.75)

        assert before == registry.published()

    def test_run_told_by_another_event_has_no_second_version(self, registry):
        registry.complete(a_run("run-1", ce_id="one"))
        registry.complete(a_run("run-1", ce_id="two"))

        assert [1] == [each.version for each in registry.versions()]

    def test_nan_metric_fails_the_gate_and_its_run_is_still_recognised(self, registry):
        registry.complete(a_run("run-1", auc=float("nan"), ce_id="one"))
        registry.complete(a_run("run-1", auc=float("nan"), ce_id="two"))

        (version,) = registry.versions()
        assert not version.gate.passed
        assert "Every metric must be finite; not finite: auc." in version.gate.evidence

    def test_run_id_with_other_content_is_a_conflict(self, registry):
        registry.complete(a_run("run-1", auc=0.75))

        with pytest.raises(Conflict, match="RUN_CONFLICT"):
            registry.complete(a_run("run-1", auc=0.76, ce_id="other"))

    def test_run_without_its_artifact_is_refused(self, registry):
        with pytest.raises(Conflict, match="ARTIFACT_NOT_UPLOADED"):
            registry.complete(a_run("run-1", digest="0" * 64))

    def test_run_of_an_unknown_recipe_is_refused_and_leaves_no_gap(self, registry):
        with pytest.raises(NotFound, match="DEFINITION_UNKNOWN"):
            registry.complete(replace(a_run("run-1"), recipe="none"))
        registry.complete(a_run("run-2"))

        assert [1] == [each.version for each in registry.versions()]

    def test_stored_version_is_the_one_that_was_registered(self, registry):
        run = a_run("run-1")
        registry.complete(run)

        (version,) = registry.versions()
        assert run.trained == version.trained
        assert registry.clock.now_us() == version.registered_at_us

    def test_pages_join_to_the_whole_list(self, registry):
        registry.complete_runs(*[0.75] * 7)
        pages, token = [], ""
        while not pages or token:
            query = ListVersions("delay", 3, token)
            page = list_versions(query, store=registry.store)
            pages.append([each.version for each in page.versions])
            token = page.next_page_token

        assert [[7, 6, 5], [4, 3, 2], [1]] == pages

    def test_model_that_nobody_trains_is_unknown(self, registry):
        with pytest.raises(NotFound, match="MODEL_UNKNOWN"):
            list_versions(ListVersions("none", 0, ""), store=registry.store)
        with pytest.raises(NotFound, match="MODEL_UNKNOWN"):
            list_aliases("none", ListByName("", 0, ""), store=registry.store)

    def test_model_without_a_version_has_an_empty_list(self, registry):
        assert [] == registry.versions()


class TestAliases:
    def test_second_of_two_moves_of_one_generation_conflicts(self, registry):
        registry.complete_runs(0.75, 0.76, 0.77)
        move(registry, a_set_alias(2))
        with pytest.raises(Conflict, match="ALIAS_MOVED"):
            move(registry, a_set_alias(3, request_id="loser"))

        assert (2, 2) == registry.champion()

    def test_generation_never_goes_back(self, registry):
        registry.complete_runs(0.75, 0.76)
        move(registry, a_set_alias(2))

        for stale in (0, 1):
            command = a_set_alias(1, generation_expected=stale, request_id=f"stale-{stale}")
            with pytest.raises(Conflict, match="ALIAS_MOVED"):
                move(registry, command)
        assert (2, 2) == registry.champion()

    def test_generation_from_the_future_conflicts(self, registry):
        registry.complete_runs(0.75)
        for alias in ("champion", "new"):
            with pytest.raises(Conflict, match="ALIAS_MOVED"):
                move(registry, a_set_alias(alias=alias, generation_expected=7))

    def test_version_that_failed_its_gate_cannot_be_named(self, registry):
        registry.complete_runs(0.75, 0.65)
        for alias, generation in (("champion", 1), ("new", 0)):
            with pytest.raises(Conflict, match="GATE_NOT_PASSED"):
                move(registry, a_set_alias(2, alias=alias, generation_expected=generation))

        assert (1, 1) == registry.champion()

    def test_other_alias_leaves_the_rollouts_alone(self, registry):
        registry.complete_runs(0.75, 0.76)
        before = registry.published("rollouts")

        move(registry, a_set_alias(2, alias="candidate", generation_expected=0))

        assert before == registry.published("rollouts")
        found, _ = list_aliases("delay", ListByName("", 0, ""), store=registry.store)
        assert [("candidate", 2), ("champion", 1)] == [(each.alias, each.version) for each in found]

    def test_champion_set_by_hand_is_served_and_ends_the_canary(self, registry):
        registry.complete_runs(0.75, 0.76)

        move(registry, a_set_alias(2))

        rollout = registry.rollout()
        assert (3, 2, None, 0) == (
            rollout.generation,
            rollout.champion.version,
            rollout.canary,
            rollout.canary_percent,
        )

    def test_of_racing_moves_one_wins_each_generation(self, registry):
        """H4: 240 moves by 8 racers, 30 generations."""
        registry.complete_runs(0.75, 0.76)
        racers, generations = 8, 30

        def race(generation: int, racer: int) -> str:
            command = a_set_alias(
                1 + racer % 2,
                alias="raced",
                generation_expected=generation,
                request_id=f"race-{generation}-{racer}",
            )
            try:
                move(registry, command)
            except Conflict as err:
                return err.reason
            return "won"

        outcomes = []
        with ThreadPoolExecutor(racers) as pool:
            for generation in range(generations):
                outcomes.append(sorted(pool.map(race, [generation] * racers, range(racers))))

        assert [["ALIAS_MOVED"] * (racers - 1) + ["won"]] * generations == outcomes
        moves = [ce_id for ce_id in registry.published() if ce_id.startswith("alias/delay/raced/")]
        assert [f"alias/delay/raced/{number + 1}" for number in range(generations)] == moves

    def test_racing_repeats_of_one_request_get_one_answer(self, registry):
        registry.complete_runs(0.75, 0.76)
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: move(registry, a_set_alias(2)), range(16)))

        assert {(2, 2)} == {(each.version, each.generation) for each in answers}

    def test_racing_runs_get_numbers_without_gaps_and_one_champion(self, registry):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: registry.complete(a_run(f"run-{n}")), range(24)))

        assert list(range(24, 0, -1)) == [each.version for each in registry.versions()]
        assert 1 == registry.champion()[1]
        assert [f"rollout/delay/{n + 1}" for n in range(24)] == registry.published("rollouts")


class TestCanary:
    def test_promoted_canary_becomes_champion(self, registry):
        registry.complete_runs(0.75, 0.76)

        judge(registry, a_verdict(promote=True))

        rollout = registry.rollout()
        assert (2, 2) == registry.champion()
        assert (3, 2, None) == (rollout.generation, rollout.champion.version, rollout.canary)
        assert "promoted v2: e-value 40 of 40" == rollout.change

    def test_rolled_back_canary_leaves_the_champion(self, registry):
        registry.complete_runs(0.75, 0.76)

        judge(registry, a_verdict(promote=False))

        rollout = registry.rollout()
        assert (1, 1) == registry.champion()
        assert (3, 1, None) == (rollout.generation, rollout.champion.version, rollout.canary)

    @pytest.mark.parametrize(
        "stale",
        [
            a_verdict(rollout_generation=1),
            a_verdict(rollout_generation=3),
            a_verdict(canary_version=1),
            a_verdict(endpoint="other"),
            a_verdict(model="other"),
        ],
        ids=["older", "newer", "version", "endpoint", "model"],
    )
    def test_verdict_on_something_else_is_ignored(self, registry, stale):
        registry.complete_runs(0.75, 0.76)
        before = registry.published()

        judge(registry, stale)

        assert before == registry.published()

    def test_repeated_verdict_has_no_second_effect(self, registry):
        registry.complete_runs(0.75, 0.76)
        judge(registry, a_verdict())
        before = registry.published()

        judge(registry, a_verdict())
        judge(registry, a_verdict(ce_id="told again"))

        assert before == registry.published()

    def test_promotion_reaches_every_endpoint_of_the_model(self, registry):
        registry.apply({**ENDPOINT, "name": "delay-b"}, request_id="second")
        registry.complete_runs(0.75, 0.76)

        judge(registry, a_verdict())

        for endpoint in ("delay", "delay-b"):
            rollout = registry.rollout(endpoint)
            assert (3, 2, None) == (rollout.generation, rollout.champion.version, rollout.canary)

    def test_endpoint_added_later_serves_the_champion_at_once(self, registry):
        registry.complete_runs(0.75)

        registry.apply({**ENDPOINT, "name": "delay-b"}, request_id="second")

        assert (1, 1) == (
            registry.rollout("delay-b").generation,
            registry.rollout("delay-b").champion.version,
        )
        registry.complete(a_run("run-2"))
        assert 2 == registry.rollout("delay-b").canary.version


class TestTransactions:
    def test_failed_transaction_leaves_nothing(self, registry):
        registry.complete_runs(0.75)
        before, versions = registry.published(), registry.versions()

        def fail() -> None:
            with registry.store.transaction() as transaction:
                transaction.first_time("runs", "x")
                transaction.add_version(replace(versions[0], version=2, run_id="run-2"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()

        assert before == registry.published()
        assert versions == registry.versions()
        with registry.store.transaction() as transaction:
            assert transaction.first_time("runs", "x")

    def test_saved_positions_come_back(self, registry):
        registry.store.save_positions({("a", 0): 3, ("a", 1): 1})
        registry.store.save_positions({("a", 0): 5})

        assert {("a", 0): 5, ("a", 1): 1} == registry.store.positions()

    def test_positions_of_a_topic_that_was_made_again_are_forgotten(self, registry):
        registry.store.follow_topics({"a": "1st", "b": "1st"})
        registry.store.save_positions({("a", 0): 3, ("b", 0): 1})
        registry.store.follow_topics({"a": "2nd"})

        assert {("b", 0): 1} == registry.store.positions()


class TestSchema:
    """P6 and P7 against statements typed by hand."""

    @pytest.mark.parametrize(
        "statement",
        [
            "insert into aliases values ('delay', 'x', 2, :digest, 1, 0)",
            "insert into aliases values ('delay', 'x', 1, :other, 1, 0)",
            "insert into aliases values ('delay', 'x', 9, :digest, 1, 0)",
            "update aliases set version = 2 where alias = 'champion'",
            "update aliases set digest = :other where alias = 'champion'",
            "update rollouts set champion_version = 2",
            "update rollouts set canary_version = 2, canary_digest = :digest",
            "update rollouts set canary_version = 2",
            "delete from passed_gates",
            "insert into passed_gates values ('delay', 1, :other)",
            "insert into alias_moves values ('delay', 'champion', 1, 1, :digest, 0)",
            "insert into alias_moves values ('delay', 'champion', 2, 9, :digest, 0)",
            "insert into versions select model, 3, digest, run_id, recipe, incident_id,"
            " trained_json, evidence_json, registered_at_us, gate_state, approver, signature_json,"
            " tags_json, card, description_changes, bundle_digest, signer, signings"
            " from versions where version = 1",
        ],
    )
    def test_ungated_or_doubled_row_is_refused_by_the_database(self, sql, statement):
        sql.complete_runs(0.75, 0.65)
        digest = sql.versions()[0].digest
        values = {"digest": digest, "other": "0" * 64}
        named = {key: value for key, value in values.items() if f":{key}" in statement}

        with pytest.raises(IntegrityError), sql.engine.begin() as connection:
            connection.execute(text(statement), named)

    def test_file_of_before_its_latency_was_kept_is_looked_through_anew(self, sql):
        before = Acceptance(Signature((), ()), ())
        with sql.store.transaction() as transaction:
            transaction.add_acceptance(DIGEST, before)
        with sql.engine.begin() as connection:
            kept = connection.execute(text("select acceptance_json from acceptances")).scalar()
            old = {key: each for key, each in json.loads(kept).items() if key != "latency_ms"}
            connection.execute(
                text("update acceptances set acceptance_json = :old"), {"old": json.dumps(old)}
            )
        with sql.store.reading() as reader:
            assert reader.acceptance(DIGEST) is None

        with sql.store.transaction() as transaction:
            transaction.add_acceptance(DIGEST, replace(before, latency_ms=2.0))

        with sql.store.reading() as reader:
            assert 2.0 == reader.acceptance(DIGEST).latency_ms

    def test_names_with_sql_in_them_are_stored_as_they_are(self, sql):
        document = {**RECIPE, "description": "'; drop table versions; -- \x00 \u202e %s ?"}

        sql.apply(document, request_id="sql")

        stored = all_definitions(sql)
        assert document["description"] in [each.parsed().description for each in stored]

    def test_older_position_does_not_replace_a_further_one(self, sql):
        sql.store.save_positions({("a", 0): 5})
        sql.store.save_positions({("a", 0): 3})

        assert {("a", 0): 5} == sql.store.positions()


def test_bad_names_are_refused(registry):
    for alias in ("latest", "7", "Upper", "", "a/b", "a" * 129, "..", "é"):
        with pytest.raises(Invalid, match="BAD_NAME"):
            move(registry, a_set_alias(alias=alias))
    for model in ("", "a b", "../x", "%2e"):
        with pytest.raises(Invalid, match="BAD_NAME"):
            move(registry, a_set_alias(model=model))
    with pytest.raises(Invalid, match="BAD_NAME"):
        registry.apply(request_id="x", application="No Name")


@pytest.mark.parametrize("request_id", ["", "x" * 129, "a\x00b", "a\u202eb"])
def test_bad_request_id_is_refused(registry, request_id):
    with pytest.raises(Invalid, match="request_id"):
        move(registry, a_set_alias(request_id=request_id))
    command = an_apply(request_id=request_id)
    with pytest.raises(Invalid, match="request_id"):
        apply_definitions(command, caller="tests", store=registry.store, clock=registry.clock)


@pytest.mark.parametrize("generation", [-1, 2**62, 2**63 - 1])
def test_generation_out_of_range_is_refused(registry, generation):
    with pytest.raises(Invalid, match="generation_expected"):
        move(registry, a_set_alias(generation_expected=generation))


class TestRolloutsByHand:
    """`delay` is served as version 1; the second version waits as a canary, the third failed."""

    @pytest.fixture
    def two(self, registry):
        registry.complete_runs(0.75, 0.76, 0.65)
        return registry

    def test_shadow_answers_nobody_and_is_told(self, two):
        roll(two, a_set_rollout(2, generation_expected=2))

        rollout = two.rollout()
        assert (3, 2, 0, False) == (
            rollout.generation,
            rollout.canary.version,
            rollout.canary_percent,
            rollout.judged,
        )
        assert "shadow v2 at 0 % by request: to compare" == rollout.change
        assert "rollout/delay/3" == two.published("rollouts")[-1]

    def test_verdict_does_not_move_a_split(self, two):
        roll(two, a_set_rollout(2, canary_percent=50, generation_expected=2))
        before = two.rollout()
        judge(two, a_verdict(rollout_generation=3))

        assert before == two.rollout()

    def test_verdict_promotes_a_canary_that_was_set_by_hand(self, two):
        wanted = a_set_rollout(2, canary_percent=5, judged=True, generation_expected=2)
        roll(two, wanted)
        judge(two, a_verdict(rollout_generation=3))

        assert (2, None) == (two.rollout().champion.version, two.rollout().canary)

    @pytest.mark.parametrize(("percent", "role"), [(50, "split"), (0, "shadow")])
    def test_version_that_passes_takes_no_place_of_what_was_set_by_hand(self, two, percent, role):
        roll(two, a_set_rollout(2, canary_percent=percent, generation_expected=2))
        two.complete(a_run("run-4", auc=0.77))

        assert (3, 2) == (two.rollout().generation, two.rollout().canary.version)
        told = list_changes(ListChanges("delay", 0, ""), store=two.store).changes
        assert [
            (
                "endpoint delay: models:/delay/4",
                f"v2 is a {role} there, set by hand, until that is ended",
            )
        ] == [(each.subject, each.reason) for each in told if each.action == "start_no_canary"]

    def test_ended_split_makes_room_for_the_next_version(self, two):
        roll(two, a_set_rollout(2, canary_percent=50, generation_expected=2))
        roll(two, a_set_rollout(generation_expected=3, request_id="end"))
        two.complete(a_run("run-4", auc=0.77))

        assert "v2 ended by request: to compare" not in two.rollout().change
        assert (5, 4, True) == (
            two.rollout().generation,
            two.rollout().canary.version,
            two.rollout().judged,
        )

    def test_stopped_endpoint_stays_stopped_when_the_champion_moves(self, two):
        roll(two, a_set_rollout(stopped=True, generation_expected=2))
        assert "stopped, v2 ended by request: to compare" == two.rollout().change
        move(two, a_set_alias(2))

        assert (2, True) == (two.rollout().champion.version, two.rollout().stopped)

    def test_stopped_endpoint_is_started_again(self, two):
        roll(two, a_set_rollout(stopped=True, generation_expected=2))
        roll(two, a_set_rollout(generation_expected=3, request_id="start"))

        assert ("started by request: to compare", False) == (
            two.rollout().change,
            two.rollout().stopped,
        )

    def test_one_of_two_who_saw_the_same_generation_wins(self, two):
        roll(two, a_set_rollout(stopped=True, generation_expected=2))

        with pytest.raises(Conflict, match="ROLLOUT_MOVED"):
            roll(two, a_set_rollout(generation_expected=2, request_id="other"))
        assert two.rollout().stopped

    def test_repeat_gets_the_first_answer(self, two):
        first = roll(two, a_set_rollout(stopped=True, generation_expected=2))

        assert first == roll(two, a_set_rollout(stopped=True, generation_expected=2))
        assert 3 == two.rollout().generation

    @pytest.mark.parametrize(
        ("command", "error", "reason"),
        [
            (a_set_rollout(3, generation_expected=2), Conflict, "GATE_NOT_PASSED"),
            (a_set_rollout(9, generation_expected=2), NotFound, "VERSION_UNKNOWN"),
            (a_set_rollout(1, generation_expected=2), Invalid, "is the champion"),
            (a_set_rollout(2, canary_percent=101), Invalid, "is 0 to 100"),
            (a_set_rollout(2, canary_percent=-1), Invalid, "is 0 to 100"),
            (a_set_rollout(canary_percent=5), Invalid, "is needed for a percentage"),
            (a_set_rollout(judged=True), Invalid, "is needed for a percentage"),
            (a_set_rollout(endpoint="other"), NotFound, "MODEL_UNKNOWN"),
            (a_set_rollout(endpoint="../x"), Invalid, "BAD_NAME"),
            (a_set_rollout(reason="a\nb"), Invalid, "one line"),
            (a_set_rollout(request_id=""), Invalid, "request_id"),
        ],
    )
    def test_what_cannot_be_is_refused_and_nothing_changes(self, two, command, error, reason):
        before = two.rollout()

        with pytest.raises(error, match=reason):
            roll(two, command)
        assert before == two.rollout()


class TestStatements:
    """Each is a way to the database and back: a move's share of what the registry can do."""

    def test_move_of_an_alias_runs_few_however_much_is_defined(self, sql):
        sql.complete_runs(0.75, 0.76)
        more = [{**ENDPOINT, "name": f"other-{number}", "model": "other"} for number in range(20)]
        sql.apply(*DEFINITIONS, {**RECIPE, "name": "other", "model": "other"}, *more)
        ran = []

        event.listen(sql.engine, "before_cursor_execute", lambda *told: ran.append(told[2]))
        move(sql, a_set_alias(2))

        few = 7 if sql.engine.dialect.name == "postgresql" else 10
        assert few == len([each for each in ran if each != "BEGIN IMMEDIATE"]), ran

# SPDX-License-Identifier: Apache-2.0
"""Aliases and rollouts: one winner for each generation, and only to versions whose gate passed."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from contracts.conformance.registry.asking import an_onnx_file, fresh, refusal_of, refused

from headrace.registry.v1 import registry_service_pb2 as pb

WRITERS, MOVES = 8, 5
MOVED = (grpc.StatusCode.ABORTED, "ALIAS_MOVED")
NOT_PASSED = (grpc.StatusCode.FAILED_PRECONDITION, "GATE_NOT_PASSED")
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_each_generation_has_one_winner_when_many_race(registry):
    model = registry.registered(versions=2)

    def race(_):
        won = []
        while len(won) < MOVES:
            seen = registry.alias(model).generation
            try:
                won.append(registry.move(model, 1 + seen % 2, seen).generation)
            except grpc.RpcError as err:
                if MOVED != refusal_of(err):
                    raise
        return won

    with ThreadPoolExecutor(WRITERS) as pool:
        won = Counter(number for wins in pool.map(race, range(WRITERS)) for number in wins)

    assert {*range(2, 2 + WRITERS * MOVES)} == won.keys()
    assert {1} == {*won.values()}
    assert 1 + WRITERS * MOVES == registry.alias(model).generation


@pytest.mark.parametrize(
    ("seen", "refusal"), [(0, MOVED), (1, MOVED), (3, MOVED), (2**62, (INVALID, "BAD_REQUEST"))]
)
def test_generation_that_is_not_the_one_is_refused(registry, seen, refusal):
    model = registry.registered(versions=2)
    registry.move(model, 2, 1)

    assert refusal == refused(lambda: registry.move(model, 1, seen))
    assert (2, 2) == (registry.alias(model).version, registry.alias(model).generation)


def test_lost_reply_is_given_again_and_the_alias_moves_once(registry):
    model, request_id = registry.registered(versions=2), fresh("move")

    first = registry.move(model, 2, 1, request_id=request_id)

    assert first == registry.move(model, 2, 1, request_id=request_id)
    assert 2 == registry.alias(model).generation


def test_alias_goes_to_no_version_whose_gate_did_not_pass(registry):
    model = registry.registered()
    failed = registry.register(model, registry.upload(an_onnx_file("shared")), accuracy=0.1)

    assert NOT_PASSED == refused(lambda: registry.move(model, failed.version, 1))
    assert NOT_PASSED == refused(lambda: registry.move(model, failed.version, 0, alias="other"))
    assert 1 == registry.alias(model).version


def test_alias_goes_to_no_version_that_is_not_there(registry):
    model = registry.registered()

    refusal = refused(lambda: registry.move(model, 7, 1))

    assert (grpc.StatusCode.NOT_FOUND, "VERSION_UNKNOWN") == refusal


@pytest.mark.parametrize("alias", ["", "Champion!", "a" * 200, "7", "latest"])
def test_name_that_is_no_alias_is_refused(registry, alias):
    model = registry.registered()

    assert (INVALID, "BAD_NAME") == refused(lambda: registry.move(model, 1, 0, alias=alias))


def test_second_alias_is_its_own(registry):
    model = registry.registered(versions=2)

    registry.move(model, 2, 0, alias="candidate")

    assert (2, 1) == (
        registry.alias(model, "candidate").version,
        registry.alias(model, "candidate").generation,
    )
    assert 1 == registry.alias(model).version


def test_every_move_is_listed_newest_first(registry):
    model = registry.registered(versions=2)
    for seen in (1, 2, 3):
        registry.move(model, 1 + seen % 2, seen)

    asked = pb.ListAliasMovesRequest(model=model, alias="champion")
    moves = registry.all("ListAliasMoves", asked, "moves")

    assert [(4, 2), (3, 1), (2, 2), (1, 1)] == [(each.generation, each.version) for each in moves]


def test_every_endpoint_follows_the_champion(registry):
    model = registry.registered(versions=2, endpoints=2)

    moved = registry.move(model, 2, 1)

    for number in (1, 2):
        rollout = registry.rollout(f"{model}-{number}")
        assert (2, moved.digest, 2) == (
            rollout.champion.version,
            rollout.champion.digest,
            rollout.generation,
        )


def test_version_stands_beside_the_champion_until_the_champion_moves(registry):
    model = registry.registered(versions=3)

    beside = registry.roll(f"{model}-1", 1, canary_version=2, canary_percent=30)
    registry.move(model, 3, 1)

    assert (2, 30, 2) == (beside.canary.version, beside.canary_percent, beside.generation)
    after = registry.rollout(f"{model}-1")
    assert (3, False, 3) == (after.champion.version, after.HasField("canary"), after.generation)


def test_stopped_endpoint_stays_stopped_when_the_champion_moves(registry):
    model = registry.registered(versions=2)

    registry.roll(f"{model}-1", 1, stopped=True)
    registry.move(model, 2, 1)

    assert registry.rollout(f"{model}-1").stopped
    assert not registry.roll(f"{model}-1", 3, stopped=False).stopped


def test_run_that_leaves_has_stopped_its_endpoints_and_no_other(registry):
    ours, other = (registry.registered(endpoints=2) for _ in range(2))
    registry.roll(f"{ours}-1", 1, stopped=True)

    left = registry.leave(f"{ours}-")

    assert (2, 2) == (left.endpoints, left.stopped)
    assert all(registry.rollout(f"{ours}-{number}").stopped for number in (1, 2))
    assert not any(registry.rollout(f"{other}-{number}").stopped for number in (1, 2))
    assert left == registry.leave(f"{ours}-")


@pytest.mark.parametrize("seen", [0, 1, 3])
def test_rollout_of_another_generation_is_refused(registry, seen):
    model = registry.registered(versions=2)
    registry.roll(f"{model}-1", 1, canary_version=2)

    refusal = refused(lambda: registry.roll(f"{model}-1", seen))

    assert (grpc.StatusCode.ABORTED, "ROLLOUT_MOVED") == refusal


def test_version_whose_gate_did_not_pass_stands_beside_nothing(registry):
    model = registry.registered()
    registry.register(model, registry.upload(an_onnx_file("shared")), accuracy=0.1)

    assert NOT_PASSED == refused(lambda: registry.roll(f"{model}-1", 1, canary_version=2))


def test_version_that_takes_other_tensors_stands_beside_no_champion_and_may_take_its_place(
    registry,
):
    model = registry.registered()
    registry.register(model, registry.upload(an_onnx_file("wide", columns=3)))

    refusal = refused(lambda: registry.roll(f"{model}-1", 1, canary_version=2))
    registry.move(model, 2, 1)

    assert (grpc.StatusCode.FAILED_PRECONDITION, "TENSORS_DIFFER") == refusal
    assert 2 == registry.rollout(f"{model}-1").champion.version


@pytest.mark.parametrize(
    "asked",
    [
        {"canary_version": 2, "canary_percent": 101},
        {"canary_version": 2, "canary_percent": -1},
        {"canary_percent": 10},
        {"judged": True},
        {"canary_version": 1},
    ],
)
def test_rollout_that_makes_no_sense_is_refused(registry, asked):
    model = registry.registered(versions=2)

    refusal = refused(lambda: registry.roll(f"{model}-1", 1, **asked))

    assert (INVALID, "BAD_REQUEST") == refusal
    assert 1 == registry.rollout(f"{model}-1").generation

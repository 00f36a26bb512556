# SPDX-License-Identifier: Apache-2.0
"""headrace rollouts asks for the state that it names, made from the one that it saw."""

import pytest
from typer.testing import CliRunner

from headrace import rollouts
from headrace.cli import rollouts as cli
from headrace.cli.main import app
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1.registry_events_pb2 import (
    Definition,
    ModelVersion,
    Rollout,
    ServedVersion,
)
from headrace.rollouts import Rollouts


class Registry:
    """Keeps one rollout, and what was asked of it; in the place of the stub."""

    def __init__(self, _):
        self.asked, self.endpoints = [], ["delay"]
        self.now = Rollout(
            endpoint="delay",
            model="delay-model",
            generation=4,
            champion=ServedVersion(version=1),
            canary=ServedVersion(version=2),
            canary_percent=20,
            judged=True,
            change="canary [v2]",
        )

    def ListRollouts(self, request, timeout):  # noqa: N802 - gRPC's name
        return pb.ListRolloutsResponse(rollouts=[self.now])

    def ListDefinitions(self, request, timeout):  # noqa: N802 - gRPC's name
        endpoints = [Definition(kind="endpoint", name=name) for name in self.endpoints]
        return pb.ListDefinitionsResponse(
            definitions=[*endpoints, Definition(kind="monitor", name="delay")]
        )

    def ResolveModel(self, request, timeout):  # noqa: N802 - gRPC's name
        assert "models:/delay-model@next" == request.reference
        return pb.ResolveModelResponse(version=ModelVersion(version=9))

    def SetRollout(self, request, timeout):  # noqa: N802 - gRPC's name
        self.asked.append(request)
        self.now.generation = request.generation_expected + 1
        self.now.stopped = request.stopped
        return pb.SetRolloutResponse(rollout=self.now)


class Client:
    def __init__(self, made):
        self.rollouts = made


@pytest.fixture
def registry(monkeypatch):
    made = Registry(None)
    stub = rollouts.registry_service_pb2_grpc
    monkeypatch.setattr(stub, "RegistryServiceStub", lambda _: made)
    monkeypatch.setattr(cli, "connect", lambda _: Client(Rollouts(None)))
    return made


def run(*arguments):
    return CliRunner().invoke(app, ["rollouts", *arguments])


def wanted(registry):
    (asked,) = registry.asked
    return (
        asked.generation_expected,
        asked.canary_version,
        asked.canary_percent,
        asked.judged,
        asked.stopped,
        asked.reason,
    )


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["shadow", "delay", "3"], (4, 3, 0, False, False)),
        (["shadow", "delay", "models:/delay-model/3"], (4, 3, 0, False, False)),
        (["shadow", "delay", "delay-model@next"], (4, 9, 0, False, False)),
        (["canary", "delay", "3", "--percent", "5"], (4, 3, 5, True, False)),
        (["split", "delay", "3", "--percent", "50"], (4, 3, 50, False, False)),
        (["end", "delay"], (4, 0, 0, False, False)),
        (["stop", "delay"], (4, 2, 20, True, True)),
    ],
)
def test_command_asks_for_the_state_it_names(registry, arguments, asked):
    done = run(*arguments, "--reason", "why")

    assert 0 == done.exit_code, done.output
    assert (*asked, "why") == wanted(registry)
    assert "(generation 5)" in done.output


def test_change_leaves_a_stopped_endpoint_stopped(registry):
    registry.now.stopped = True
    run("end", "delay", "--reason", "why")

    assert (4, 0, 0, False, True, "why") == wanted(registry)


def test_started_endpoint_keeps_what_stood_beside_the_champion(registry):
    registry.now.stopped = True
    run("start", "delay", "--reason", "why")

    assert (4, 2, 20, True, False, "why") == wanted(registry)


def test_endpoint_that_was_taken_back_is_not_listed_and_can_be_stopped(registry):
    registry.endpoints = ["other"]

    assert "delay" not in run("list").output
    assert 0 == run("stop", "delay", "--reason", "before it is applied again").exit_code
    assert wanted(registry)[4]


def test_list_tells_each_endpoint_whole(registry):
    shown = run("list").output

    for cell in ("delay-model", "canary 2, 20 %", "canary [v2]"):
        assert cell in shown


def test_version_of_another_model_is_refused(registry):
    done = run("shadow", "delay", "delay/3", "--reason", "why")

    assert (1, True) == (done.exit_code, "delay/3 is not of delay-model" in done.output)
    assert [] == registry.asked


def test_unknown_endpoint_is_told(registry):
    done = run("stop", "other", "--reason", "why")

    assert 1 == done.exit_code
    assert "MODEL_UNKNOWN" in done.stderr


def test_reason_is_needed(registry):
    assert 2 == run("stop", "delay").exit_code
    assert [] == registry.asked

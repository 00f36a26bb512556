# SPDX-License-Identifier: Apache-2.0
"""headrace models, promote and train tell all that the registry knows, and refuse nonsense."""

import pytest
from typer.testing import CliRunner

from headrace.application import Recipe
from headrace.cli import models
from headrace.cli.main import app
from headrace.errors import Invalid, NotFound
from headrace.registry.v1 import registry_events_pb2 as pb
from headrace.trainer.v1 import trainer_service_pb2 as pb_trainer


class Registry:
    """Two versions; the second one serves under two names."""

    def __init__(self):
        self.definitions = {}

    def train(self, recipe, *, known_until_us):
        return "run-1"

    def wait_run(self, run_id, *, timeout_s, said):
        waits = "RECORDS_BEHIND, air: complete up to 2013"
        for progress in (f"waits after try 1: {waits}", "asking", f"waits after try 2: {waits}"):
            said(progress)

    def runs(self):
        return [pb_trainer.Run(run_id="run-1", recipe="delay", state=1, progress="waits [x]")]

    def cancel_run(self, run_id):
        raise NotFound("RUN_UNKNOWN", run_id=run_id)

    def versions(self, model):
        return [pb.ModelVersion(model=model, version=n, digest="d" * 64) for n in (2, 1)]

    def aliases(self, model):
        return [pb.Alias(model=model, alias=name, version=2) for name in ("champion", "mine")]

    def promote(self, model, version, *, alias):
        raise Invalid("BAD_NAME", name=alias)


def with_definitions(definitions):
    found = Registry()
    found.definitions = definitions
    return found


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(models, "connect", lambda data_dir: Registry())
    monkeypatch.setenv("COLUMNS", "160")


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_every_alias_of_a_version_is_shown():
    assert "champion, mine" in run("models", "delay").output


def test_model_without_version_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr(Registry, "versions", lambda self, model: [])

    assert "headrace train" in run("models", "delay").output


@pytest.mark.parametrize("version", ["0", "-1", "99999999999999999999", "two"])
def test_number_that_no_version_has_is_refused(version):
    assert 2 == run("promote", "delay", "--", version).exit_code


def test_brackets_of_a_reason_are_shown():
    assert "[a-z0-9][a-z0-9-.]{0,127}" in run("promote", "delay", "2", "--alias", "x y").output


def test_run_that_waits_says_once_for_what_and_how_to_end_it(monkeypatch):
    recipe = Recipe.model_construct(model="delay")
    monkeypatch.setattr(
        models, "connect", lambda _: with_definitions({("recipe", "delay"): recipe})
    )
    told = run("train", "delay").output

    assert 1 == told.count("air: complete up to 2013")
    assert "headrace cancel run-1" in told


def test_runs_show_what_they_say():
    told = run("runs").output

    assert all(said in told for said in ("run-1", "delay", "waits [x]"))


def test_run_that_is_not_there_is_not_cancelled():
    answer = run("cancel", "nobody")

    assert (1, True) == (answer.exit_code, "RUN_UNKNOWN" in answer.output)


def test_unknown_recipe_is_named_before_anything_is_asked():
    answer = run("train", "nosuch")

    assert (1, True) == (answer.exit_code, "DEFINITION_UNKNOWN" in answer.output)

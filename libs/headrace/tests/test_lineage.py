# SPDX-License-Identifier: Apache-2.0
"""headrace lineage shows both ways, and writes what OpenLineage's specification asks for."""

from __future__ import annotations

import json
import uuid
from datetime import datetime

import pytest
from typer.testing import CliRunner

from headrace.cli import lineage as cli
from headrace.cli.main import app
from headrace.errors import NotFound
from headrace.inference.v1.inference_events_pb2 import PredictionsMade
from headrace.lineage import PredictionOrigin
from headrace.open_lineage import run_events
from headrace.prediction_log import made_here
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as pb

PREDICTION = "00c0ffee00c0ffee00c0ffee00000002"


def a_lineage(*, model="delay", version=7, run="run-1", recipe="delay"):
    sources = [("stream", "flights", "12"), ("training-set", "5e7", ""), ("artifact", "d1", "")]
    sources += [(kind, name, "") for kind, name in (("run", run), ("recipe", recipe)) if name]
    return pb.VersionLineage(
        model=model,
        version=version,
        registered_at_us=1_362_129_000_000_000,
        sources=[pb.Source(kind=kind, name=name, at=at) for kind, name, at in sources],
        aliases=["champion"],
        endpoints=["delay"],
        read_offsets=[pb.ReadOffsets(stream="flights", partition=3, first=17, last=1233)],
    )


def a_graphs_lineage():
    lineage = a_lineage(model="guarded", version=2, recipe="")
    lineage.sources.add(kind="graph", name="guarded")
    lineage.sources.add(kind="component", name="models:/delay/7", at="d7")
    return lineage


FILE = "d7" * 32


class Asked:
    """In the place of Client.lineage."""

    def version(self, reference):
        assert reference in ("models:/delay/7", "delay@champion")
        return a_lineage()

    def versions_from(self, name, *, kind=""):
        if (kind, name) == ("component", "models:/delay/7"):
            return [a_graphs_lineage()]
        if name == FILE:
            return [a_lineage()]
        return [a_lineage(version=number) for number in (6, 7) if name == "flights"]

    def predictions(self, reference, endpoint):
        self.version(reference)
        made = [(f"{PREDICTION[:-1]}{row}", 40 + row) for row in range(3)]
        topic = f"inference.predictions.{endpoint}.v1"
        return (
            PredictionOrigin(prediction_id, endpoint, "delay", 7, topic, 3, offset)
            for prediction_id, offset in (made if endpoint == "delay" else [])
        )

    def prediction(self, prediction_id, endpoint):
        if prediction_id != PREDICTION:
            raise NotFound("PREDICTION_UNKNOWN", prediction_id=prediction_id, endpoint=endpoint)
        topic = "inference.predictions.delay.v1"
        return PredictionOrigin(prediction_id, endpoint, "delay", 7, topic, 3, 44)


class Platform:
    lineage = Asked()


@pytest.fixture(autouse=True)
def _platform(monkeypatch):
    monkeypatch.setattr(cli, "connect", lambda data_dir: Platform())
    monkeypatch.setenv("COLUMNS", "160")


def run(*arguments):
    return CliRunner().invoke(app, ["lineage", *arguments])


@pytest.mark.parametrize("named", ["models:/delay/7", "delay@champion"])
def test_version_is_shown_between_its_sources_and_its_users(named):
    shown = run(named).output

    for text in ("flights at version 12", "training-set", "run-1", "champion", "endpoint"):
        assert text in shown
    assert "raw.flights.v1 partition 3, offsets 17 to 1233" in shown


def test_version_that_was_taken_back_says_so(monkeypatch):
    retracted = a_lineage()
    assert "taken back" not in run("models:/delay/7").output
    retracted.gate_state = events.GATE_STATE_RETRACTED
    monkeypatch.setattr(Asked, "version", lambda self, reference: retracted)

    assert "taken back" in run("models:/delay/7").output


def test_version_is_shown_with_the_graphs_that_it_is_a_step_of():
    shown = run("delay@champion").output

    assert "is a step of" in shown
    assert "models:/guarded/2" in shown


def test_digest_is_shown_with_the_graphs_that_hold_its_file():
    shown = run(FILE).output

    assert "models:/delay/7" in shown
    assert "models:/guarded/2" in shown


def test_graph_is_shown_with_its_components():
    shown = run("models:/delay/7", "--kind", "component").output

    assert "came of component" in shown
    assert "models:/delay/7 of digest d7" in shown


def test_run_events_of_a_graph_read_its_components():
    start, _ = run_events(a_graphs_lineage())

    assert "train.guarded" == start["job"]["name"]
    versions = {e["name"]: e["facets"]["version"]["datasetVersion"] for e in start["inputs"]}
    assert "7" == versions["model/delay"]


def test_stream_is_shown_with_every_version_that_came_of_it():
    shown = run("flights", "--kind", "stream").output

    assert "models:/delay/6" in shown
    assert "models:/delay/7" in shown


def test_version_leads_to_the_predictions_that_it_made():
    shown = run("delay@champion", "--endpoint", "delay")

    assert 0 == shown.exit_code
    assert [
        f"{PREDICTION[:-1]}{row}  inference.predictions.delay.v1 partition 3 offset {40 + row}"
        for row in range(3)
    ] == shown.output.splitlines()


@pytest.mark.parametrize("other", [("--kind", "run"), ("--open-lineage", "-")])
def test_list_of_predictions_takes_nothing_beside(other):
    shown = run("delay@champion", "--endpoint", "delay", *other)

    assert 2 == shown.exit_code
    assert "leave --kind" in shown.output


def test_version_without_predictions_there_is_told_so():
    shown = run("models:/delay/7", "--endpoint", "price")

    assert 1 == shown.exit_code
    assert "PREDICTION_UNKNOWN" in shown.output


def test_prediction_leads_to_its_version_and_on():
    shown = run(PREDICTION, "--endpoint", "delay").output

    assert "models:/delay/7, told at inference.predictions.delay.v1 partition 3 offset 44" in shown
    assert "flights at version 12" in shown


def test_prediction_that_the_log_does_not_tell_of_is_an_error():
    answered = run("f" * 32, "--endpoint", "delay")

    assert 1 == answered.exit_code


@pytest.mark.parametrize("more", [(), ("--kind", "view"), ("--open-lineage", "-")])
def test_thing_of_which_nothing_came_is_an_error(more):
    answered = run("nothing", *more)

    assert (1, True) == (answered.exit_code, "SOURCE_UNKNOWN" in answered.output)


def test_open_lineage_goes_to_a_file_or_the_output(tmp_path):
    run("flights", "--open-lineage", str(tmp_path / "events.jsonl"))
    printed = run("flights", "--open-lineage", "-").output

    written = (tmp_path / "events.jsonl").read_text()
    assert written == printed
    assert ["START", "COMPLETE"] * 2 == [json.loads(e)["eventType"] for e in written.splitlines()]


def test_run_events_hold_what_the_specification_requires():
    for event in run_events(a_lineage()):
        assert {"eventTime", "producer", "schemaURL", "run", "job"} <= event.keys()
        assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
        assert {"namespace": "headrace", "name": "train.delay"} == event["job"]
        assert uuid.UUID(event["run"]["runId"])
        facets = [each["facets"]["version"] for each in event["inputs"] + event["outputs"]]
        for facet in (*facets, *event["run"]["facets"].values()):
            assert {"_producer", "_schemaURL"} <= facet.keys()


def test_inputs_and_outputs_name_their_versions():
    start, complete = run_events(a_lineage())

    inputs = {each["name"]: each["facets"]["version"]["datasetVersion"] for each in start["inputs"]}
    assert {"stream/flights": "12", "training-set/5e7": "5e7"} == inputs
    assert [] == start["outputs"]
    (output,) = complete["outputs"]
    assert ("model/delay", "7") == (output["name"], output["facets"]["version"]["datasetVersion"])


def test_stream_of_an_event_tells_where_its_records_lay_in_the_raw_topic():
    start, _ = run_events(a_lineage())
    facets = {each["name"]: each["facets"] for each in start["inputs"]}
    told = facets["stream/flights"]["headrace_rawOffsets"]

    assert "raw.flights.v1" == told["topic"]
    assert [{"partition": 3, "first": 17, "last": 1233}] == told["partitions"]
    assert {"_producer", "_schemaURL"} <= told.keys()
    assert ["version"] == [*facets["training-set/5e7"]]


def test_both_events_are_of_one_run_and_other_versions_of_others():
    def ids(**changes):
        return {event["run"]["runId"] for event in run_events(a_lineage(**changes))}

    known = str(uuid.uuid4())
    assert {known} == ids(run=known)
    assert 1 == len(ids()) == len(ids(run=""))
    assert 4 == len(ids() | ids(run="run-2") | ids(run="") | ids(run="", version=8))


def test_version_from_elsewhere_is_a_registration():
    start, _ = run_events(a_lineage(run="", recipe=""))

    assert "register.delay" == start["job"]["name"]


@pytest.mark.parametrize(
    ("prediction_id", "told"),
    [
        (f"{'a' * 24}00000005", True),
        (f"{'a' * 24}00000007", True),
        (f"{'a' * 24}00000008", False),
        (f"{'b' * 24}00000000", True),
        (f"{'b' * 24}00000001", False),
        ("", False),
    ],
)
def test_prediction_is_found_within_its_run(prediction_id, told):
    firsts = [f"{'a' * 24}00000005", f"{'b' * 24}00000000"]
    made = PredictionsMade(first_prediction_ids=firsts, run_rows=[3, 1])

    assert told == made_here(made, prediction_id)

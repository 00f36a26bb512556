# SPDX-License-Identifier: Apache-2.0
"""`headrace apply` tells each change of a contract that the registry refuses."""

from concurrent.futures import Future
from pathlib import Path

import pytest
from click.testing import Result
from confluent_kafka.admin import NewTopic
from typer.testing import CliRunner

from headrace import admin
from headrace.application import Application
from headrace.cli import work
from headrace.cli.main import app
from headrace.client import Addresses, Client
from headrace.errors import Conflict, HeadraceError, Unavailable
from headrace.ingest.v1.ingest_service_pb2 import StreamCounts
from headrace.loader import FILE_BYTES_MAX
from headrace.registry.v1.registry_events_pb2 import Definition

FLIGHTS = Path(__file__).parents[3] / "examples/flights"
CHANGES = ("column gate: is gone", "column delay: type was float64, is int64")


class Refusing:
    """Answers as a client whose registry takes nothing."""

    def apply(self, application, *, reason):
        raise Conflict("CONTRACT_INCOMPATIBLE", stream="flights", changes="\n".join(CHANGES))


def test_refused_contract_ends_the_command_with_a_line_for_each_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work, "connect", lambda data_dir: Refusing())

    ended = CliRunner().invoke(app, ["apply", str(FLIGHTS)])

    assert 1 == ended.exit_code
    assert "  stream: flights" in ended.stderr.splitlines()
    assert [f"    {change}" for change in CHANGES] == [
        line for line in ended.stderr.splitlines() if line.lstrip().startswith("column")
    ]


@pytest.mark.parametrize(
    "deep",
    ["a: " + "[" * 10_000, "a: " + "{a: " * 10_000, "".join(" " * n + "-\n" for n in range(999))],
)
def test_file_that_is_nested_too_deep_is_told_by_its_name(tmp_path: Path, deep: str) -> None:
    (tmp_path / "deep.yaml").write_text(deep)

    ended = CliRunner().invoke(app, ["apply", str(tmp_path)])

    assert 1 == ended.exit_code
    assert "BAD_DEFINITION" in ended.stderr
    assert "deep.yaml" in ended.stderr


class Storing:
    """Answers as a client whose registry takes all, and whose ingest tells this of the streams."""

    def __init__(self, *told: StreamCounts, error: HeadraceError | None = None) -> None:
        self.told, self.error = told, error

    def apply(self, application: Application, *, reason: str) -> list[Definition]:
        self.reason = reason
        return [Definition(kind="stream", name=name, version=3) for name in application.streams]

    def await_streams(
        self, version_by_stream: dict[str, int], *, timeout_s: float
    ) -> list[StreamCounts]:
        assert {3} == set(version_by_stream.values())
        if self.error:
            raise self.error
        return list(self.told)


def applied(monkeypatch: pytest.MonkeyPatch, client: Storing) -> Result:
    monkeypatch.setattr(work, "connect", lambda data_dir: client)
    return CliRunner().invoke(app, ["apply", str(FLIGHTS)])


def test_stream_that_ingest_cannot_read_is_told_and_stays_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = StreamCounts(
        stream="flights.departed",
        stopped_reason="BAD_SETTING",
        stopped_details={"setting": "INGEST_PII_KEY"},
    )

    ended = applied(monkeypatch, Storing(stopped, StreamCounts(stream="flights.arrived")))

    assert 0 == ended.exit_code
    assert "flights.departed is stopped" in ended.output
    assert "setting: INGEST_PII_KEY" in ended.output
    assert "flights.arrived is stopped" not in ended.output


def test_ingest_that_does_not_answer_takes_nothing_from_what_is_stored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = applied(monkeypatch, Storing(error=Unavailable("SERVICE_UNAVAILABLE")))

    assert 0 == ended.exit_code
    assert "SERVICE_UNAVAILABLE" in ended.stderr
    assert "headrace streams" in ended.stderr


def test_reason_goes_with_what_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Storing()
    monkeypatch.setattr(work, "connect", lambda data_dir: registry)

    assert 0 == CliRunner().invoke(app, ["apply", str(FLIGHTS), "--reason", "a new view"]).exit_code
    assert "a new view" == registry.reason


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"a: \xff", "is not UTF-8"),
        (b"kind: stream\nkind: view\n", "kind is given twice, line 2 column 1"),
        (b"a: b: c", "mapping values are not allowed here, line 1 column 5"),
        (b"a: 1\n---\nb: 2\n", "expected a single document in the stream"),
        (b"? [a]\n: 1\n", "found unhashable key"),
        (b"a: 2013-13-45", "holds a character, date or number that YAML does not take"),
        (b"a: \x01", "holds a character, date or number that YAML does not take"),
    ],
)
def test_file_that_is_no_yaml_is_told_in_plain_words(
    tmp_path: Path, text: bytes, told: str
) -> None:
    (tmp_path / "stream.yaml").write_bytes(text)

    ended = CliRunner().invoke(app, ["apply", str(tmp_path)])

    assert (1, SystemExit) == (ended.exit_code, type(ended.exception))
    assert told in ended.stderr
    assert "stream.yaml" in ended.stderr
    assert "unicode string" not in ended.stderr


def test_file_that_is_too_large_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_text("#" * (FILE_BYTES_MAX + 1))

    ended = CliRunner().invoke(app, ["apply", str(tmp_path)])

    assert (1, SystemExit) == (ended.exit_code, type(ended.exception))
    assert "BAD_DEFINITION" in ended.stderr
    assert "large.yaml" in ended.stderr
    assert "is larger than 1 MiB" in ended.stderr


class HangingKafka:
    """An AdminClient whose broker takes the question and never answers."""

    def __init__(self, settings: dict[str, object]) -> None:
        pass

    def create_topics(self, new: list[NewTopic], **_: float) -> dict[str, Future[None]]:
        return {each.topic: Future() for each in new}


def test_kafka_that_hangs_ends_the_command_with_reason_and_next_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admin, "AdminClient", HangingKafka)
    monkeypatch.setattr(admin, "REQUEST_TIMEOUT_S", 0.0)
    addresses = Addresses(kafka="127.0.0.1:9092", registry="127.0.0.1:1")
    monkeypatch.setattr(work, "connect", lambda data_dir: Client(addresses))

    ended = CliRunner().invoke(app, ["apply", str(FLIGHTS)])

    assert (1, SystemExit) == (ended.exit_code, type(ended.exception))
    assert "BROKER_UNAVAILABLE" in ended.stderr
    assert "Next:" in ended.stderr

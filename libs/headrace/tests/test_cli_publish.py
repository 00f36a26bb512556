# SPDX-License-Identifier: Apache-2.0
"""`headrace publish` tells a wrong line by its number; `streams` tells what became of the rest."""

import re

import pytest
from typer.testing import CliRunner

from headrace.cli import work
from headrace.cli.main import app
from headrace.errors import Invalid
from headrace.ingest.v1 import ingest_service_pb2 as pb


class Taker:
    """Takes records as a client does."""

    def publish(self, stream, records, *, door):
        return len(list(records))

    def stream_counts(self):
        dead = {"BAD_TYPE": 1_200, "DECODE_ERROR": 3}
        return [
            pb.StreamCounts(stream="rides", received=81_206, stored=80_003, repeats=0),
            pb.StreamCounts(
                stream="asks",
                dead_lettered_by_reason=dead,
                stopped_reason="TOO_MANY_DEAD_LETTERS",
                stopped_details={"most_often": "BAD_TYPE"},
            ),
            pb.StreamCounts(
                stream="late",
                stopped_reason="TOPIC_MISSING",
                stopped_details={"topic": "raw.late.v1"},
            ),
            pb.StreamCounts(
                stream="away",
                stopped_reason="OBJECT_STORE_UNAVAILABLE",
                counts_unknown=True,
            ),
            pb.StreamCounts(stream="full", received=7, stopped_reason="DISK_FULL"),
        ]


@pytest.fixture(autouse=True)
def _client(monkeypatch):
    monkeypatch.setattr(work, "connect", lambda data_dir: Taker())


def publish(*arguments, stdin=b""):
    return CliRunner().invoke(app, ["publish", "rides", *arguments], input=stdin)


def test_lines_of_a_file_and_of_standard_input_are_published(tmp_path):
    file = tmp_path / "rides.jsonl"
    file.write_bytes(b'{"id": "a"}\n\n{"id": "b"}\n')

    for answer in (publish(str(file)), publish(stdin=file.read_bytes())):
        assert "2 records published" in answer.output


@pytest.mark.parametrize("line", [b"{", b"[]", b"7", b'{"a": "\xff"}', b"[" * 100_000])
def test_line_that_is_no_json_object_is_told_by_its_number(line):
    answer = publish(stdin=b'{"id": "a"}\n' + line + b"\n")

    assert (1, SystemExit) == (answer.exit_code, type(answer.exception))
    assert "BAD_REQUEST" in answer.output
    assert "line: 2" in answer.output


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"fare": 1, "fare": 2}', "fare is given twice"),
        (b'{"ride": {"a": 1, "b": 2, "a": 3}}', "a is given twice"),
        (b'{"fare": NaN}', "NaN is no finite number"),
        (b'{"fare": -Infinity}', "-Infinity is no finite number"),
        (b'{"fare": 1e999}', "1e999 is no finite number"),
    ],
)
def test_line_that_says_what_json_cannot_is_told_by_its_number(line, problem):
    answer = publish(stdin=b'{"id": "a"}\n' + line + b"\n")

    assert 1 == answer.exit_code
    assert "line: 2" in answer.output
    assert problem in answer.output


def test_absent_file_is_a_mistake_of_usage():
    assert 2 == publish("absent.jsonl").exit_code


def test_what_became_of_the_records_is_told_by_stream():
    shown = CliRunner().invoke(app, ["streams"]).output

    assert "80,003" in shown
    assert "1,203" in shown
    assert "BAD_TYPE" in shown


def test_stopped_stream_is_told_with_what_it_is_about_and_the_next_step():
    shown = CliRunner().invoke(app, ["streams"]).output

    assert "asks is stopped" in shown
    assert "TOO_MANY_DEAD_LETTERS: More of the last records" in shown
    assert "most_often: BAD_TYPE" in shown
    assert "Next: Apply a contract that takes them" in shown


def test_stream_whose_topic_is_missing_is_told_as_waiting():
    shown = CliRunner().invoke(app, ["streams"]).output

    assert "late waits, and goes on by itself" in shown
    assert "topic: raw.late.v1" in shown


def test_streams_whose_archive_is_away_or_disk_is_full_are_told_as_waiting():
    shown = CliRunner().invoke(app, ["streams"]).output

    [away] = re.findall(r"away\W.*unknown.*", shown)
    assert "0" not in away
    assert "away waits, and goes on by itself" in shown
    assert "full waits, and goes on by itself" in shown


def test_next_step_after_publishing_is_named():
    assert "1 record published to rides. What became of them: headrace streams" in publish(
        stdin=b"{}"
    ).output.replace("\n", " ")


class Refusing(Taker):
    """Refuses the third record, as a client does, once two are durable."""

    def publish(self, stream, records, *, door):
        taken = list(records)
        raise Invalid("TOO_LARGE", row=len(taken), accepted=2, again="it is safe")


def test_record_that_is_refused_is_told_by_its_line_and_beside_what_is_there(monkeypatch):
    monkeypatch.setattr(work, "connect", lambda data_dir: Refusing())
    answer = publish(stdin=b'\n{"id": "a"}\n\n \n{"id": "b"}\n{"id": "c"}\n')

    assert 1 == answer.exit_code
    for told in ("line: 6", "accepted: 2", "again: it is safe"):
        assert told in answer.output
    assert "row" not in answer.output


def test_dash_is_standard_input():
    assert "2 records published" in publish("-", stdin=b'{"id": "a"}\n{"id": "b"}\n').output


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a": "\xff"}', "it is not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "it begins with a byte order mark"),
        (b'{"a":' * 100_000, "it is nested too deep"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "a number of 5,000 digits"),
    ],
)
def test_line_that_cannot_be_read_is_told_in_plain_words(line, problem):
    answer = publish(stdin=line + b"\n")

    assert problem in answer.output
    for word in ("codec", "recursion", "sys.", "decode"):
        assert word not in answer.output

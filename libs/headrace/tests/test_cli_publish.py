# SPDX-License-Identifier: Apache-2.0
"""`headrace publish` tells a wrong line by its number; `streams` tells what became of the rest."""

import pytest
from typer.testing import CliRunner

from headrace.cli import work
from headrace.cli.main import app
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
                stream="asks", dead_lettered_by_reason=dead, stopped_reason="TOO_MANY_DEAD_LETTERS"
            ),
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


def test_absent_file_is_a_mistake_of_usage():
    assert 2 == publish("absent.jsonl").exit_code


def test_what_became_of_the_records_is_told_by_stream():
    shown = CliRunner().invoke(app, ["streams"]).output

    assert "80,003" in shown
    assert "BAD_TYPE 1,200" in shown
    assert "TOO_MANY_DEAD" in shown


def test_next_step_after_publishing_is_named():
    assert "1 record published to rides. What became of them: headrace streams" in publish(
        stdin=b"{}"
    ).output.replace("\n", " ")

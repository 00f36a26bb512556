# SPDX-License-Identifier: Apache-2.0
"""`headrace publish` tells a wrong line by its number, without a traceback."""

import pytest
from typer.testing import CliRunner

from headrace.cli import work
from headrace.cli.main import app


class Taker:
    """Takes records as a client does."""

    def publish(self, stream, records):
        return len(list(records))


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

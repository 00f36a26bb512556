# SPDX-License-Identifier: Apache-2.0
"""Of a log the line is quoted that says what went wrong, wherever it stands."""

import pytest

from headrace.local.process import error_line, told_error, trouble_line

STEP = '{"service": "ingest", "event": "service_stopped", "level": "info"}'
TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no such thing'


@pytest.mark.parametrize(
    ("written", "quoted"),
    [
        (f"BAD_SETTING: unknown setting INGEST_X\n{STEP}", "BAD_SETTING: unknown setting INGEST_X"),
        (f"{TRACE}\n{STEP}\n{STEP}", "ValueError: no such thing"),
        (f"Kafka does not answer at h:1.\n{STEP}", "Kafka does not answer at h:1."),
        (
            f'{{"event": "part_failed", "level": "error"}}\n{STEP}',
            '{"event": "part_failed", "level": "error"}',
        ),
        (
            "[1] ERROR Exiting (kafka.Kafka$)\n\tat a.B.c\n"
            "Caused by: java.net.BindException: in use\n\tat a.B.c\n[2] INFO shut down",
            "Caused by: java.net.BindException: in use",
        ),
        (
            'FATAL:  lock file "postmaster.pid" exists\nHINT:  Is another postmaster running?',
            'FATAL:  lock file "postmaster.pid" exists',
        ),
        (STEP, STEP),
        ("\n \n", "nothing"),
    ],
)
def test_line_that_says_what_went_wrong_is_quoted(written, quoted):
    assert quoted == error_line(written)


def test_error_that_a_command_ended_with_is_quoted_whole():
    told = "PORT_TAKEN: A port is in use.\n  port: 9092\nNext: Stop it."

    assert told == told_error(f"kafka: ready after 3.1 s\n{told}\n")
    assert "Killed" == told_error("Killed")
    assert "nothing" == told_error("")


@pytest.mark.parametrize(
    ("written", "quoted"),
    [
        (
            f'{{"event": "follower_waits", "error": "RESTORING: x", "level": "warning"}}\n{STEP}',
            "follower_waits: RESTORING: x",
        ),
        ('{"event": "part_failed", "level": "error"}', "part_failed"),
        (f"{TRACE}\n{STEP}", "ValueError: no such thing"),
        ("[1] ERROR no room (kafka.Kafka$)\n[2] INFO waits", "[1] ERROR no room (kafka.Kafka$)"),
        (STEP, ""),
        ("", ""),
    ],
)
def test_last_trouble_is_quoted_in_words(written, quoted):
    assert quoted == trouble_line(written)

# SPDX-License-Identifier: Apache-2.0
"""Who is suspected, who is tried alone, who is guilty."""

from __future__ import annotations

import errno
import os
from contextlib import suppress

import pytest

from headrace.errors import Busy
from headrace_kit.attempt_log import FileAttemptLog
from headrace_kit.suspects import Attempt, Suspects
from headrace_kit.testing import MemoryAttemptLog, a_batch, a_record

PLACE = ("raw", 0)


def records(*offsets, partition=0):
    return a_batch(
        [a_record(topic="raw", partition=partition, offset=offset) for offset in offsets]
    )


def offsets(parts):
    return [[record.offset for record in part] for part in parts]


def test_without_suspects_all_records_are_one_part():
    batch = records(3, 4, 5)

    assert [[3, 4, 5]] == offsets(Suspects({}).parts(batch))
    assert {PLACE: Attempt(3, 6, 0)} == Suspects({}).attempts(batch)


def test_records_of_a_deadly_batch_are_tried_in_small_parts():
    suspects = Suspects({PLACE: Attempt(4, 204, 0)})
    tried = suspects.parts(records(*range(3, 206)))

    assert [1, 100, 100, 2] == [len(part) for part in tried]
    assert {PLACE: Attempt(4, 104, 1)} == suspects.attempts(tried[1])


def test_records_of_two_deaths_are_tried_alone():
    suspects = Suspects({PLACE: Attempt(4, 6, 1)})

    assert [[3], [4], [5], [6, 7]] == offsets(suspects.parts(records(3, 4, 5, 6, 7)))
    assert {PLACE: Attempt(4, 5, 2)} == suspects.attempts(records(4))


def test_other_partitions_are_not_suspected():
    suspects = Suspects({PLACE: Attempt(4, 6, 0)})

    assert [[4, 5]] == offsets(suspects.parts(records(4, 5, partition=1)))


@pytest.mark.parametrize(("deaths", "guilty"), [(0, False), (1, False), (2, True)])
def test_third_death_at_one_offset_is_proof(deaths, guilty):
    assert guilty == Suspects({PLACE: Attempt(4, 5, deaths)}).guilty(records(4))


def test_record_that_was_judged_is_not_suspected_any_more():
    suspects = Suspects({PLACE: Attempt(4, 5, 2)})
    suspects.clear(records(4))

    assert not suspects.guilty(records(4))


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_log_reads_back_what_is_written_and_nothing_else(kind, tmp_path):
    log = MemoryAttemptLog() if kind == "memory" else FileAttemptLog(tmp_path)
    assert {} == log.read()
    log.write({PLACE: Attempt(4, 6, 1), ("raw", 1): Attempt(0, 9)})
    log.write({PLACE: Attempt(4, 5, 2)})

    assert {PLACE: Attempt(4, 5, 2)} == (
        log if kind == "memory" else FileAttemptLog(tmp_path)
    ).read()


@pytest.mark.parametrize("before", [Attempt(104, 206, 2), Attempt(4, 6)])
def test_log_that_was_cut_off_says_what_was_written_or_nothing(before, tmp_path, monkeypatch):
    """Wherever the disk was full, or the process killed, amid the line."""
    log, now = FileAttemptLog(tmp_path), Attempt(11, 15, 1)
    pwrite, read = os.pwrite, []
    for cut in range(1, 40):
        monkeypatch.undo()
        log.write({PLACE: before})
        room = iter([cut])

        def filling_up(file, line, place, room=room):
            if (left := next(room, None)) is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            return pwrite(file, line[:left], place)

        monkeypatch.setattr(os, "pwrite", filling_up)
        with suppress(Busy):
            log.write({PLACE: now})
        read.append(FileAttemptLog(tmp_path).read())

    assert {} in read
    assert {PLACE: now} in read
    assert all(each in ({}, {PLACE: now}) for each in read)


def test_log_that_has_no_room_is_busy_until_there_is_some(tmp_path, monkeypatch):
    """What fits is written, and the rest is refused: as a disk does that fills up."""
    log, room, pwrite = FileAttemptLog(tmp_path), [5, 0], os.pwrite

    def filling_up(file, line, place):
        if not (left := room.pop(0) if room else len(line)):
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(file, line[:left], place)

    monkeypatch.setattr(os, "pwrite", filling_up)
    with pytest.raises(Busy, match="DISK_FULL"):
        log.write({PLACE: Attempt(4, 6)})
    log.write({PLACE: Attempt(4, 6)})

    assert {PLACE: Attempt(4, 6)} == FileAttemptLog(tmp_path).read()

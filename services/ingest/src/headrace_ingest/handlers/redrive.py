# SPDX-License-Identifier: Apache-2.0
"""Sends dead letters again, after the contract or the code is mended: same bytes, same event id.

What would be refused again, by the applied contract or because its event id is held by another
record (`Foresight`), is left alone: it would only become a letter anew. Of what is sent the record
goes to its raw topic first, then a mark goes behind its letter. After a crash between the two the
letter is sent once more, and ingest drops the copy by its event id (I14).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from headrace import topics
from headrace.errors import Invalid, NotFound
from headrace_ingest.domain.decoding import Decode
from headrace_ingest.domain.erasures import ENTITY_ERASED
from headrace_ingest.domain.faults import leading
from headrace_ingest.domain.letters import Letter, Position, Selection
from headrace_ingest.domain.redrive_seal import RedriveSeal
from headrace_ingest.handlers.dead_letters import (
    BEGINNING,
    DANGEROUS,
    REDRIVEN,
    TOPIC,
    original,
    read_letters,
    read_window,
    require_stream,
)
from headrace_ingest.handlers.erased_letters import ErasedLetters
from headrace_ingest.handlers.foresight import Foresight
from headrace_ingest.ports.definitions import ContractBook
from headrace_ingest.ports.labels import RecordRows
from headrace_kit.dead_letters import ORIGIN_HEADERS
from headrace_kit.failpoints import failpoint
from headrace_kit.kafka import Message, Publisher, Record
from headrace_kit.topic_log import TopicLog

LETTERS_MAX = 100_000
PART_RECORDS, PART_BYTES, MIB = 1_000, 16 << 20, 1 << 20


@dataclass(frozen=True, slots=True)
class RedriveDeadLetters:
    """Send the selected letters that wait, or in a dry run judge them by the applied contract.

    `letters_max` bounds what is sent, or judged.
    """

    selection: Selection
    dry_run: bool = False
    letters_max: int = LETTERS_MAX


@dataclass(slots=True)
class Progress:
    """So far; `more`, at the end: letters are left that it was not allowed to take.

    `sent` counts what was judged in a dry run; else what is refused was not sent.
    """

    sent: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    more: bool = False


def redrive_dead_letters(
    command: RedriveDeadLetters,
    *,
    log: TopicLog,
    contracts: ContractBook,
    publisher: Publisher,
    decode: Decode,
    archived: RecordRows,
    erased: ErasedLetters,
    seal: RedriveSeal,
    left_s: Callable[[], float],
) -> Iterator[Progress]:
    """Tell the progress after each part; ends in time when `left_s` says that none is left.

    Raises Invalid BAD_REQUEST when neither a stream nor letters are named, NotFound STREAM_UNKNOWN
    for a stream that is not applied and has no letter, DEAD_LETTER_UNKNOWN for a partition that is
    not there, and what `log`, `archived` and `publisher` raise: what was sent until then stays
    sent, and is not sent again.
    """
    selection = command.selection
    if not (selection.stream or selection.positions):
        raise Invalid("BAD_REQUEST", field="filter.stream", problem="names no stream, nor ids")
    _require_partitions(selection, log)
    progress = Progress()
    waiting = _waiting(log, selection)
    foresight = Foresight(contracts, decode, archived)
    while (left := command.letters_max - progress.sent) and (part := _part(waiting)):
        if left_s() <= 0:
            progress.more = True
            break
        due = _asked_for(part, progress, selection)
        known = _alive(_known(due, progress, log, contracts), progress, erased)
        if command.dry_run:
            progress.more, known = len(known) > left, known[:left]
        taken = _taken(known, progress, foresight)
        if command.dry_run:
            progress.sent += len(known)
        else:
            progress.more = len(taken) > left
            _send(taken[:left], progress, publisher, seal)
        yield progress
    progress.more = progress.more or next(waiting, None) is not None
    if progress == Progress():
        require_stream(selection, contracts)
    yield progress


def _part(waiting: Iterator[tuple[Letter, Record]]) -> list[tuple[Letter, Record]]:
    """The next letters: many small ones, since the archive is asked once for all of them."""
    part, size = list[tuple[Letter, Record]](), 0
    for letter, record in waiting:
        part.append((letter, record))
        size += MIB if record.value is None else len(record.value)
        if len(part) >= PART_RECORDS or size >= PART_BYTES:
            break
    return part


def _require_partitions(selection: Selection, log: TopicLog) -> None:
    there = log.partitions(TOPIC)
    for position in sorted(selection.positions):
        if position.partition not in there:
            raise NotFound("DEAD_LETTER_UNKNOWN", id=position.id)


def _waiting(log: TopicLog, selection: Selection) -> Iterator[tuple[Letter, Record]]:
    """Window after window, each read when the one before it is done with."""
    begin: Position | None = BEGINNING
    while begin is not None:
        window = read_window(log, selection, begin)
        due = {each.position: each for each in window.waiting()}
        for position, record in read_letters(log, due):
            yield due[position], record
        begin = window.following


def _asked_for(
    part: Sequence[tuple[Letter, Record]], progress: Progress, selection: Selection
) -> list[tuple[Letter, Record]]:
    """Counts the dangerous ones that nobody named as skipped."""
    if selection.positions:
        return list(part)
    dangerous = [DANGEROUS in letter.reasons for letter, _ in part]
    progress.skipped.update(DANGEROUS for each in dangerous if each)
    return [each for each, left in zip(part, dangerous, strict=True) if not left]


@dataclass(frozen=True, slots=True)
class _Known:
    """A letter whose record is kept and whose stream is applied."""

    stream: str
    letter: Record
    original: Record
    dangerous: bool


def _known(
    part: Sequence[tuple[Letter, Record]], progress: Progress, log: TopicLog, book: ContractBook
) -> list[_Known]:
    """Counts the others as skipped."""
    streams, found = set(book.names()), []
    for letter, record in part:
        if letter.stream not in streams:
            progress.skipped["STREAM_UNKNOWN"] += 1
        elif (kept := original(record, log)) is None:
            progress.skipped["RECORD_LOST"] += 1
        else:
            found.append(_Known(letter.stream, record, kept, DANGEROUS in letter.reasons))
    return found


def _alive(known: Sequence[_Known], progress: Progress, erased: ErasedLetters) -> list[_Known]:
    """Counts those of erased entities as skipped: they end here."""
    alive = []
    for stream in sorted({each.stream for each in known}):
        own = [each for each in known if each.stream == stream]
        gone = erased.among(stream, [each.original for each in own])
        progress.skipped[ENTITY_ERASED] += sum(gone)
        alive += [each for each, dead in zip(own, gone, strict=True) if not dead]
    return alive


def _taken(known: Sequence[_Known], progress: Progress, foresight: Foresight) -> list[_Known]:
    """Counts what would be refused; nobody judges here what may end a process."""
    taken = [each for each in known if each.dangerous]
    for stream in sorted({each.stream for each in known}):
        own = [each for each in known if each.stream == stream and not each.dangerous]
        found = foresight.told(stream, [each.original for each in own])
        progress.refused.update(leading(told) for told in found if told)
        taken += [each for each, told in zip(own, found, strict=True) if not told]
    return taken


def _send(
    known: Sequence[_Known], progress: Progress, publisher: Publisher, seal: RedriveSeal
) -> None:
    if known:
        publisher.publish([_message(each, seal) for each in known])
        failpoint("ingest.redrive.sent")
        publisher.publish([_mark(each.letter) for each in known])
        progress.sent += len(known)


def _message(known: _Known, seal: RedriveSeal) -> Message:
    """The record as it was, where it stood first, and the proof that it comes from here."""
    record, topic = known.original, topics.RAW.of(known.stream)
    headers = (*record.headers.items(), *_origin_headers(known.letter))
    proof = seal.header(topic, record.key, record.value, headers)
    return Message(topic, record.key, record.value, (*headers, proof))


def _mark(letter: Record) -> Message:
    headers = (*_origin_headers(letter), (REDRIVEN, b"1"))
    return Message(TOPIC, letter.key, None, headers)


def _origin_headers(letter: Record) -> list[tuple[str, bytes]]:
    return [(name, letter.headers[name]) for name in ORIGIN_HEADERS]

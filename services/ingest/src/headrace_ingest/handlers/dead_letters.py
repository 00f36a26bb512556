# SPDX-License-Identifier: Apache-2.0
"""Lists and shows what was set aside, by reading `ingest.dead-letters` in bounded windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from headrace import topics
from headrace.errors import NotFound
from headrace_ingest.domain.decoding import Decode
from headrace_ingest.domain.erasures import ENTITY_ERASED
from headrace_ingest.domain.judging import judge
from headrace_ingest.domain.letters import Letter, Position, Selection, Sent, Window
from headrace_ingest.handlers.erased_letters import ErasedLetters, veiled
from headrace_ingest.ports.definitions import ContractBook
from headrace_kit.dead_letters import (
    CONTENT_HEADERS,
    dead_letter_topic,
    origin_of,
    own_headers,
    whole,
)
from headrace_kit.kafka import Partition, Record, RecordBatch
from headrace_kit.topic_log import TopicLog

TOPIC = dead_letter_topic("ingest")
WINDOW_LETTERS_MAX = 50_000
BEGINNING = Position(0, 0)
# In the header of a letter's key, without payload: the letter was sent again.
REDRIVEN = "dl-redriven"
# It may end the process again: judged by nobody who serves, and sent by its id alone.
DANGEROUS = "POISON_CRASH"
NOT_KNOWN = b"-"  # no value of any format


@dataclass(frozen=True, slots=True)
class LetterPage:
    """`counts` by (stream, reason, redriven), of a window of letters from its beginning."""

    records: Sequence[tuple[Record, Letter, bool]]
    following: Position | None
    counts: Mapping[tuple[str, str, bool], int]
    more_uncounted: bool


@dataclass(frozen=True, slots=True)
class LetterView:
    """One letter with what is kept of its record, and why the applied contract would refuse it.

    `told_now`: as in `Judged`; empty when it would be taken, DANGEROUS when it was not judged.
    """

    record: Record
    letter: Letter
    redriven: bool
    value: bytes | None
    told_now: str


def read_window(
    log: TopicLog, selection: Selection, begin: Position, *, letters_max: int = WINDOW_LETTERS_MAX
) -> Window:
    """The selected letters from `begin` on; raises what `log` raises."""
    window = Window(selection, letters_max)
    for number in log.partitions(TOPIC):
        if number >= begin.partition and window.following is None:
            first = begin.offset if number == begin.partition else 0
            records = log.read(Partition(TOPIC, number), first, since_ms=selection.since_ms)
            window.read(_entries(records))
    return window


def list_dead_letters(
    selection: Selection,
    begin: Position,
    *,
    letters_max: int,
    with_redriven: bool,
    log: TopicLog,
    contracts: ContractBook,
    erased: ErasedLetters,
) -> LetterPage:
    """A page of letters from `begin` on, each with its record; an erased one is veiled.

    Raises NotFound STREAM_UNKNOWN, as `require_stream`.
    """
    window = read_window(log, selection, begin)
    if begin == BEGINNING and not window.found():
        require_stream(selection, contracts)
    counts: Counter[tuple[str, str, bool]] = Counter()
    told = []
    for letter, sent in window.letters():
        counts.update((letter.stream, reason, sent) for reason in letter.reasons)
        if with_redriven or not sent:
            told.append((letter, sent))
    page = told[:letters_max]
    rest = [letter.position for letter, _ in told[letters_max : letters_max + 1]]
    following = rest[0] if rest else window.following
    shown = {letter.position: (letter, sent) for letter, sent in page}
    read = [(record, *shown[at]) for at, record in read_letters(log, shown)]
    records = [(_shown(record, letter, log, erased), letter, sent) for record, letter, sent in read]
    return LetterPage(records, following, counts, window.following is not None)


def require_stream(selection: Selection, contracts: ContractBook) -> None:
    """Raises NotFound STREAM_UNKNOWN for a stream that is not applied; for one without letters."""
    if selection.stream:
        contracts.get(selection.stream)


def get_dead_letter(
    position: Position,
    *,
    log: TopicLog,
    contracts: ContractBook,
    decode: Decode,
    erased: ErasedLetters,
) -> LetterView:
    """Raises NotFound DEAD_LETTER_UNKNOWN; of an erased record nothing is shown."""
    known = position.partition in log.partitions(TOPIC)
    record = log.at(Partition(TOPIC, position.partition), position.offset) if known else None
    letter = None if record is None else letter_of(record)
    if record is None or not isinstance(letter, Letter):
        raise NotFound("DEAD_LETTER_UNKNOWN", id=position.id)
    window = Window(Selection(positions=frozenset([position])), 1)
    window.read(_entries(log.read(Partition(TOPIC, position.partition), position.offset)))
    redriven = not window.waiting()  # also when another letter has followed
    raw = original(record, log)
    if raw is not None and erased.among(letter.stream, [raw])[0]:
        return LetterView(veiled(record), letter, redriven, None, ENTITY_ERASED)
    if raw is None:
        return LetterView(record, letter, redriven, None, "")
    if DANGEROUS in letter.reasons:
        return LetterView(record, letter, redriven, raw.value, DANGEROUS)
    [now] = told_now(letter.stream, [raw], contracts, decode)
    return LetterView(record, letter, redriven, raw.value, now)


def _shown(record: Record, letter: Letter, log: TopicLog, erased: ErasedLetters) -> Record:
    """Of a pointer the key alone is known, and says whom it may speak of."""
    key_alone = replace(record, key=record.headers["dl-key"], value=NOT_KNOWN, headers={})
    raw = original(record, log) if record.value is not None else None
    return veiled(record) if erased.among(letter.stream, [raw or key_alone])[0] else record


def read_letters(
    log: TopicLog, positions: Mapping[Position, object]
) -> Iterator[tuple[Position, Record]]:
    """The records at these positions, in their order; those that are gone are passed over."""
    for number in sorted({position.partition for position in positions}):
        offsets = {each.offset for each in positions if each.partition == number}
        last = max(offsets)
        for record in log.read(Partition(TOPIC, number), min(offsets)):
            if record.offset in offsets:
                yield Position(number, record.offset), record
            if record.offset >= last:
                break


def original(letter: Record, log: TopicLog) -> Record | None:
    """The record as it was: from its letter, else from the raw topic; None when it is gone.

    Its headers are its own, without those of the letter.
    """
    origin = origin_of(letter.headers)
    if origin is None:
        return None
    if whole(letter, letter.headers):
        found = replace(letter, topic=origin.topic, key=letter.headers["dl-key"] or None)
    else:
        raw = log.at(Partition(origin.topic, origin.partition), origin.offset)
        if raw is None or not whole(raw, letter.headers):  # gone, or of a topic that was made again
            return None
        found = raw
    return replace(found, headers=own_headers(found))


def told_now(
    stream: str, records: Sequence[Record], contracts: ContractBook, decode: Decode
) -> list[str]:
    """Why the applied contract would refuse each record, as in `Judged`; repeats are not sought."""
    try:
        contract = contracts.get(stream)
    except NotFound as err:
        return [err.reason] * len(records)
    refused = judge(RecordBatch.of(records), contract, decode=decode).refused
    return [refused.get(number, "") for number in range(len(records))]


def _told(record: Record) -> str:
    """What `dl-reasons` says; letters of old have one reason."""
    told = record.headers.get("dl-reasons") or record.headers.get("dl-reason", b"")
    return told.decode("utf-8", "replace")


def letter_of(record: Record) -> Letter | Sent | None:
    """What a record of the topic says; None for what says less than ingest, whoever wrote it."""
    origin = origin_of(record.headers)
    if origin is None or record.key is None:
        return None
    position = Position(record.partition, record.offset)
    if REDRIVEN in record.headers:
        return Sent(position, origin.attempt)
    if not record.headers.keys() >= set(CONTENT_HEADERS):
        return None
    stream = topics.RAW.part_of(origin.topic)
    return Letter(
        position=position,
        stream=stream if topics.RAW.of(stream) == origin.topic else "",
        partition=origin.partition,
        offset=origin.offset,
        told=_told(record),
        attempt=origin.attempt,
        set_aside_ms=record.timestamp_ms,
    )


def _entries(records: Iterator[Record]) -> Iterator[tuple[bytes, Letter | Sent]]:
    for record in records:
        if (entry := letter_of(record)) is not None:
            yield record.key or b"", entry

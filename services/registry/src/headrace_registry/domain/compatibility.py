# SPDX-License-Identifier: Apache-2.0
"""What a stream's next contract may change: it takes every record that the one before took.

Records of the older contract lie in Kafka and in the archive, and publishers go on sending them.
Types and roles of columns stay for good, because archived rows and folded tiles were made by them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from headrace.data_contract import Column, Stream

ROLES = ("format", "key", "id", "event_time", "known_time")
# Data of persons may be protected more, never less.
STRICTNESS = ("keep", "hash", "drop")
# What an error can carry, five lines in a value, beside the names and the versions.
CHANGES_TOLD_MAX = 30
CHANGE_BYTES_MAX = 90


def differences(was: Stream, now: Stream) -> list[str]:
    """One line for each change that would refuse, lose or reread older records."""
    return [*_of_stream(was, now), *_of_columns(was, now)]


def told(lines: Sequence[str]) -> str:
    """The lines, short enough for an error."""
    shown = [_cut(line) for line in lines[:CHANGES_TOLD_MAX]]
    left = len(lines) - len(shown)
    return "\n".join([*shown, f"and {left} more"] if left else shown)


def _cut(line: str) -> str:
    return line.encode()[:CHANGE_BYTES_MAX].decode(errors="ignore")


def _of_stream(was: Stream, now: Stream) -> Iterator[str]:
    for role in ROLES:
        before, after = getattr(was, role), getattr(now, role)
        if before != after:
            yield f"{role}: was {before or 'absent'}, is {after or 'absent'}"
    for name, rule in now.rules.items():
        if was.rules.get(name) != rule:
            yield f"rule {name}: {'changed' if name in was.rules else 'new'}"
    if now.lateness_allowed_s < was.lateness_allowed_s:
        yield f"lateness_allowed: was {was.lateness_allowed_s}s, is {now.lateness_allowed_s}s"


def _of_columns(was: Stream, now: Stream) -> Iterator[str]:
    for name, before in was.columns.items():
        after = now.columns.get(name)
        for change in _of_column(before, after) if after else ["is gone"]:
            yield f"column {name}: {change}"
    for name, column in now.columns.items():
        if name not in was.columns and column.required:
            yield f"column {name}: new and required"


def _of_column(was: Column, now: Column) -> Iterator[str]:
    if was.type != now.type:
        yield f"type was {was.type}, is {now.type}"
        return
    if was.field != now.field:
        yield f"field was {was.field}, is {now.field}"
    if now.required and not was.required:
        yield "was optional, is required"
    if now.min is not None and not now.clip and (was.min is None or now.min > was.min):
        yield f"min was {_bound(was.min)}, is {_bound(now.min)}"
    if now.max is not None and not now.clip and (was.max is None or now.max < was.max):
        yield f"max was {_bound(was.max)}, is {_bound(now.max)}"
    yield from _of_values(was, now)
    yield from _of_steps(was, now)


def _of_values(was: Column, now: Column) -> Iterator[str]:
    """How the texts of a column are read, and which of them are taken."""
    if now.one_of is not None and was.one_of is None:
        yield "one_of is new"
    elif now.one_of is not None and (gone := sorted({*(was.one_of or ())} - {*now.one_of})):
        yield f"no longer takes {', '.join(gone)}"
    if was.trim and not now.trim:
        yield "is no longer trimmed"
    kept = (now.map or {}).items()
    if changed := sorted(text for text, _ in (was.map or {}).items() - kept):
        yield f"no longer maps {', '.join(changed)} as before"


def _of_steps(was: Column, now: Column) -> Iterator[str]:
    """What is made of a sent value: columns keep their meaning, and what was mended stays so."""
    if (was.unit_from or now.unit_from) and (was.unit, was.unit_from) != (now.unit, now.unit_from):
        yield f"unit was {_units(was)}, is {_units(now)}"
    if was.derive != now.derive:
        yield f"derive was {was.derive or 'absent'}, is {now.derive or 'absent'}"
    if was.default is not None and (type(was.default), was.default) != (
        type(now.default), now.default):  # fmt: skip
        yield f"default was {was.default}, is {'absent' if now.default is None else now.default}"
    if was.cast and not now.cast:
        yield "no longer takes numbers sent as text"
    if was.clip and not now.clip:
        yield "is no longer clipped"
    if was.clip and now.clip and (was.min, was.max) != (now.min, now.max):
        yield "is clipped to another range"
    if STRICTNESS.index(now.treatment) < STRICTNESS.index(was.treatment):
        yield f"personal data: treatment was {was.treatment}, is {now.treatment}"


def _units(column: Column) -> str:
    return f"{column.unit_from or column.unit or 'absent'} to {column.unit or 'absent'}"


def _bound(bound: float | None) -> str:
    return "open" if bound is None else str(bound).removesuffix(".0")

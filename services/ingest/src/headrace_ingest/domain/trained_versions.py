# SPDX-License-Identifier: Apache-2.0
"""Which model versions were trained on an erased entity's rows, also those registered later.

A training run reads its rows and registers a version minutes or hours later. The manifest of the
version names the version of each table that was read: one from before the rows were out may have
had them, whenever the model version came. A graph holds the versions that it is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainedVersion:
    """A model version that read these streams when rows of the entity were known, or that is made
    of one which did."""

    model: str
    version: int
    streams: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Training:
    """What a version says of its training set: which tables it read, as of which version of each,
    and up to which known time.

    `components`: model and version of what a graph is made of.
    """

    model: str
    version: int
    known_until_us: int
    table_version_by_stream: Mapping[str, int]
    components: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """What an erasure notes at its beginning, to tell of a version that comes later.

    `known_since_us`: of streams that held rows. `table_version_by_stream`: as these were counted.
    `newest_version_by_model`: asked for behind that, so that a newer one was not looked at.
    """

    known_since_us: Mapping[str, int]
    table_version_by_stream: Mapping[str, int]
    newest_version_by_model: Mapping[str, int]


def trained_since(
    trainings: Sequence[Training], known_since_us: Mapping[str, int]
) -> tuple[TrainedVersion, ...]:
    """Those that read a stream up to the moment given with it, or further."""
    read = {
        _named(each): {stream for stream in _streams(each) if _known(each, stream, known_since_us)}
        for each in trainings
    }
    return _versions(trainings, read)


def trained_later(
    trainings: Sequence[Training],
    trace: Trace,
    clean_version_by_stream: Mapping[str, int] | None,
    noted: Sequence[TrainedVersion],
) -> tuple[TrainedVersion, ...]:
    """Those registered since the beginning that read a table before the entity was out of it.

    `clean_version_by_stream`: the table's first version that is known to be without it; before
    anybody knows one, each counts. `noted`: those found at the beginning.
    """

    counted, clean = trace.table_version_by_stream, clean_version_by_stream

    def held(training: Training, stream: str) -> bool:
        version = training.table_version_by_stream[stream]
        if clean is not None and version >= clean.get(stream, 0):
            return False
        if _known(training, stream, trace.known_since_us):
            return True
        # Behind the count there may be rows that were on their way, of which no time was noted;
        # a stream that is known to be clean, and was not counted, had no table yet.
        return version > counted[stream] if stream in counted else clean is not None

    newest = trace.newest_version_by_model
    later = [each for each in trainings if each.version > newest.get(each.model, 0)]
    read = {(each.model, each.version): set(each.streams) for each in noted}
    read |= {
        _named(each): {stream for stream in _streams(each) if held(each, stream)} for each in later
    }
    return _versions(later, read)


def newest_versions(trainings: Iterable[Training]) -> dict[str, int]:
    """By model."""
    newest = dict[str, int]()
    for each in trainings:
        newest[each.model] = max(each.version, newest.get(each.model, 0))
    return newest


def _versions(
    trainings: Sequence[Training], read: dict[tuple[str, int], set[str]]
) -> tuple[TrainedVersion, ...]:
    """Those that read a stream, by what `read` says of these and of others, or are made of such."""
    grows = True
    while grows:  # as often as graphs are made of graphs, and once more
        grows = False
        for each in trainings:
            own = read[_named(each)]
            inside = set[str]().union(*(read.get(part, ()) for part in each.components))
            grows = grows or not inside <= own
            own |= inside
    return tuple(
        TrainedVersion(each.model, each.version, tuple(sorted(read[_named(each)])))
        for each in trainings
        if read[_named(each)]
    )


def _named(training: Training) -> tuple[str, int]:
    return training.model, training.version


def _streams(training: Training) -> Iterable[str]:
    return training.table_version_by_stream


def _known(training: Training, stream: str, known_since_us: Mapping[str, int]) -> bool:
    return stream in known_since_us and known_since_us[stream] <= training.known_until_us

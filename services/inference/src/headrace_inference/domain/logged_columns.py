# SPDX-License-Identifier: Apache-2.0
"""What the log keeps of many predictions: which of their rows lie side by side in a record.

Rows are named and not copied: a part of a prediction points into the prediction's own columns.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, repeat
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from headrace_inference.domain.prediction import Prediction
from headrace_inference.domain.request import Tensor
from headrace_kit.key_partitions import key_partitions

Ints = NDArray[np.int64]
AnyValue = TypeVar("AnyValue")
# Ids, keys and moments, and what the wire adds.
ROW_OVERHEAD_BYTES = 128
# Before each element of BYTES, its length.
ELEMENT_BYTES = 4
UTF8_BYTES_MAX = 4


# Rows of one request and one moment that lie together, and their numbers go up by one: the place of
# the request in the prediction's ids, the number of the first row there and its place in the
# prediction, and how many. A bare tuple: there is one for nearly every row that has an entity key.
Run = tuple[int, int, int, int]


@dataclass(slots=True, eq=False)
class Part:
    """Rows of one prediction, one run at least. Nobody changes one."""

    prediction: Prediction
    # Of all rows of the prediction: at most what each takes in a record.
    row_bytes: Sequence[int]
    runs: Sequence[Run]
    # Where its rows lie in the prediction, [first, end): those side by side are one.
    stretches: Sequence[tuple[int, int]] = field(init=False)

    def __post_init__(self) -> None:
        self.stretches = _stretches(self.runs)

    def of_runs(self, runs: Sequence[Run]) -> Part:
        return Part(self.prediction, self.row_bytes, runs)

    @property
    def whole(self) -> bool:
        """Whether it is all of the prediction, and one run."""
        return self.runs[0][3] == len(self.row_bytes)

    @property
    def bytes(self) -> int:
        return sum(self.of_rows(self.row_bytes))

    @property
    def first_row_bytes(self) -> int:
        return self.row_bytes[self.runs[0][2]]

    @property
    def rows(self) -> int:
        return sum([end - first for first, end in self.stretches])

    def of_rows(self, values: Sequence[AnyValue], width: int = 1) -> list[AnyValue]:
        """Those of its rows, where each row of the prediction has so many."""
        own: list[AnyValue] = []
        for first, end in self.stretches:
            own += values[first * width : end * width]
        return own

    def between(self, first: int, end: int) -> Part:
        """Its own rows from `first` on, without the row `end`."""
        cut, begin = [], 0
        for request, number, place, rows in self.runs:
            skipped, stop = max(first - begin, 0), min(end - begin, rows)
            if skipped < stop:
                cut.append((request, number + skipped, place + skipped, stop - skipped))
            begin += rows
        return self.of_runs(cut)


def logged_parts(
    predictions: Sequence[Prediction], partitions: int
) -> Iterator[tuple[int, list[Part]]]:
    """What may lie together, being of one version, arm and door, and its partition; in the order in
    which the predictions came.

    A row lies in the partition of its entity key; without one, in that of its request, as a retry
    does. A run of requests without ids of their callers lies together: no retry has
    such an id.
    """
    keys = [_partition_keys(prediction) for prediction in predictions]
    hashed = [key.encode() for key in chain.from_iterable(keys)]
    places = key_partitions(hashed, partitions)
    alike: dict[object, dict[int, list[Part]]] = {}
    end = 0
    for prediction, own in zip(predictions, map(len, keys), strict=True):
        begin, end = end, end + own
        by_partition = alike.setdefault(_kind(prediction), {})
        for partition, part in _parts(prediction, places[begin:end]):
            by_partition.setdefault(partition, []).append(part)
    for by_partition in alike.values():
        for partition in sorted(by_partition):
            yield partition, by_partition[partition]


def runs(prediction: Prediction, partition_by_row: Ints | None = None) -> list[Run]:
    """All of it in as few as can be; each in one partition, if rows have their own."""
    counts = prediction.ids.rows
    starts = list(accumulate(counts, initial=0))
    rows = starts.pop()
    if rows > len(counts):
        changed = prediction.as_of_us[1:] != prediction.as_of_us[:-1]
        if partition_by_row is not None:
            changed |= partition_by_row[1:] != partition_by_row[:-1]
        if changed.any():
            firsts = np.union1d(starts, changed.nonzero()[0] + 1)
            requests = np.searchsorted(starts, firsts, side="right") - 1
            numbers, ends = firsts - np.array(starts)[requests], np.append(firsts[1:], rows)
            columns = (requests, numbers, firsts, ends - firsts)
            return list(zip(*(column.tolist() for column in columns), strict=True))
    return list(zip(range(len(counts)), repeat(0), starts, counts, strict=False))


def records(parts: Iterable[Part], bytes_max: int) -> Iterator[list[Part]]:
    """Cut where a record is full; a row that is larger than one is alone."""
    record: list[Part] = []
    left = bytes_max
    for part in parts:
        size = part.bytes
        if 0 < size <= left:  # a part of no rows is passed over below
            record.append(part)
            left -= size
            continue
        ends = [0, *accumulate(part.of_rows(part.row_bytes))]
        first, rows = 0, len(ends) - 1
        while first < rows:
            fitting = bisect_right(ends, ends[first] + left) - 1
            end = max(fitting, first if record else first + 1)
            if end > first:
                record.append(part if end - first == rows else part.between(first, end))
                left -= ends[end] - ends[first]
            if end < rows:
                yield record
                record, left = [], bytes_max
            first = end
    if record:
        yield record


def cuts(sizes: Ints, bytes_max: int) -> Iterator[tuple[int, int]]:
    """The places [first, end) of as many as fit together; what is larger than that is alone."""
    ends, first = np.cumsum(sizes), 0
    while first < len(sizes):
        fit_max = int(ends[first] - sizes[first]) + bytes_max
        end = max(first + 1, int(np.searchsorted(ends, fit_max, side="right")))
        yield first, end
        first = end


def row_bytes(prediction: Prediction) -> list[int]:
    """At most what each row takes in a record."""
    rows, fixed = prediction.rows, ROW_OVERHEAD_BYTES
    texts: list[list[bytes]] = []
    for tensor in prediction.tensors():
        if isinstance(tensor.values, list):
            texts.append(tensor.values)
        else:
            fixed += tensor.values.nbytes // rows
    sizes = [fixed] * rows
    if prediction.entity_keys:
        sizes = [fixed + UTF8_BYTES_MAX * len(key) for key in prediction.entity_keys]
    for elements in texts:
        width = len(elements) // rows
        for row in range(rows):
            lengths = map(len, elements[row * width : (row + 1) * width])
            sizes[row] += sum(lengths) + ELEMENT_BYTES * width
    return sizes


def prediction_bytes(prediction: Prediction) -> int:
    """What it takes in memory, about."""
    return sum(map(tensor_bytes, prediction.tensors())) + ROW_OVERHEAD_BYTES * prediction.rows


def tensor_bytes(tensor: Tensor) -> int:
    if isinstance(tensor.values, list):
        return sum(map(len, tensor.values)) + ELEMENT_BYTES * len(tensor.values)
    return tensor.values.nbytes


def _partition_keys(prediction: Prediction) -> Sequence[str]:
    """Of each row if rows have entity keys, else of each request, or one for all of them."""
    bases = prediction.ids.bases
    if not prediction.entity_keys:
        return bases if prediction.ids.named else bases[:1]
    of_rows = chain.from_iterable(map(repeat, bases, prediction.ids.rows))
    return [key or base for key, base in zip(prediction.entity_keys, of_rows, strict=True)]


def _parts(prediction: Prediction, places: Ints) -> Iterator[tuple[int, Part]]:
    """By partition; `places` are as the keys are."""
    keyed, sizes = bool(prediction.entity_keys), row_bytes(prediction)
    own, partitions = runs(prediction, places if keyed else None), places.tolist()
    if len(partitions) == 1:
        yield partitions[0], Part(prediction, sizes, own)
        return
    found: dict[int, list[Run]] = {}
    by = 2 if keyed else 0  # where it begins, or its request
    for run in own:
        found.setdefault(partitions[run[by]], []).append(run)
    for partition, chosen in found.items():
        yield partition, Part(prediction, sizes, chosen)


def _stretches(own: Sequence[Run]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    begin = end = own[0][2]
    for _, _, first, rows in own:
        if first != end:
            found.append((begin, end))
            begin = first
        end = first + rows
    return [*found, (begin, end)]


def _kind(prediction: Prediction) -> object:
    """What two predictions share when their rows may lie in one record."""
    shadow, rows = prediction.shadow, (prediction.rows,)
    tensors = []
    for tensor in prediction.tensors():
        if tensor.shape[:1] != rows:
            return id(prediction)
        tensors.append((tensor.name, tensor.datatype, tensor.shape[1:]))
    return (
        prediction.endpoint,
        prediction.served.version,
        prediction.served.digest,
        prediction.arm,
        prediction.door,
        prediction.rollout_generation,
        shadow.version if shadow else 0,
        *tensors,
    )

# SPDX-License-Identifier: Apache-2.0
"""The answer to a request, column by column: what the caller gets and what the log keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import chain
from typing import cast

import numpy as np
from numpy.typing import NDArray

from headrace_inference.domain.request import FEATURES, PREDICTION_ID, SCORE, Door, Tensor
from headrace_inference.domain.rollout import Arm, ServedVersion
from headrace_inference.domain.serving import Floats

ID_BASE_DIGITS = 24


@dataclass(frozen=True, slots=True)
class Shadow:
    """What the other arm would have said."""

    version: int
    outputs: Mapping[str, Tensor]

    @property
    def scores(self) -> Floats:
        return cast(Floats, self.outputs[SCORE].values)


@dataclass(slots=True)
class PredictionIds:
    """The ids of rows, request by request: what all rows of one share, and how many they are."""

    bases: Sequence[str]
    rows: Sequence[int]
    # Whether one of the requests may come again by its id.
    named: bool = True
    # Asked for again and again.
    count: int = field(init=False)

    def __post_init__(self) -> None:
        self.count = sum(self.rows)

    def __len__(self) -> int:
        return self.count

    def of_requests(self, places: Sequence[int]) -> PredictionIds:
        bases, rows = [self.bases[at] for at in places], [self.rows[at] for at in places]
        return PredictionIds(bases, rows, self.named)

    def each(self) -> list[str]:
        return [
            row_id(base, row)
            for base, rows in zip(self.bases, self.rows, strict=True)
            for row in range(rows)
        ]


def id_base(request_id: str, endpoint: str) -> str:
    """Stable over retries. The request id is last: it may hold any character."""
    return sha256(f"{endpoint}\n{request_id}".encode()).hexdigest()[:ID_BASE_DIGITS]


def row_id(base: str, row: int) -> str:
    return f"{base}{row:08x}"


def prediction_ids(request_id: str, endpoint: str, rows: int) -> PredictionIds:
    """Of the rows of one request."""
    return PredictionIds((id_base(request_id, endpoint),), (rows,))


@dataclass(slots=True)
class Prediction:
    """Rows that one version answered (P9); `inputs` and `outputs` are the model's own.

    Nobody changes one. It is made with each run and so is not frozen, nor are its parts: that takes
    Python three times as long.
    """

    request_id: str
    endpoint: str
    model: str
    served: ServedVersion
    arm: Arm
    rollout_generation: int
    door: Door
    # Of each row; nothing when no row has one.
    entity_keys: Sequence[str]
    as_of_us: NDArray[np.int64]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    shadow: Shadow | None
    served_at_us: int
    ids: PredictionIds
    # Of `features`, where the service read them; kept in the log alone.
    event_times: Tensor | None = None
    # How long the inputs took to come, features too, and the model to run.
    read_ns: int = 0
    run_ns: int = 0
    # By the names that were asked for; not kept in the log.
    attributions: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return self.ids.count

    @property
    def prediction_ids(self) -> list[str]:
        return self.ids.each()

    @property
    def features(self) -> Floats:
        """[rows, n], of a version that takes features."""
        return cast(Floats, self.inputs[FEATURES].values)

    @property
    def scores(self) -> Floats:
        """[rows], of a version that takes features."""
        return cast(Floats, self.outputs[SCORE].values)

    def tensors(self) -> Iterator[Tensor]:
        """All that the log keeps: inputs, the event times of the features among them, outputs, and
        the outputs of the other arm.
        """
        times = () if self.event_times is None else (self.event_times,)
        shadow = self.shadow.outputs.values() if self.shadow else ()
        return chain(self.inputs.values(), times, self.outputs.values(), shadow)

    def of_requests(self, first: int, end: int) -> Prediction:
        """The rows of these of its requests alone, of a version that answers each row by itself."""
        if (first, end) == (0, len(self.ids.rows)):
            return self
        begin, rows = sum(self.ids.rows[:first]), sum(self.ids.rows[first:end])
        chosen, shadow, times = slice(begin, begin + rows), self.shadow, self.event_times
        if shadow is not None:
            shadow = replace(shadow, outputs=_cut(shadow.outputs, chosen))
        return replace(
            self,
            entity_keys=self.entity_keys[chosen],
            as_of_us=self.as_of_us[chosen],
            inputs=_cut(self.inputs, chosen),
            outputs=_cut(self.outputs, chosen),
            shadow=shadow,
            ids=self.ids.of_requests(range(first, end)),
            event_times=None if times is None else times.cut(begin, begin + rows),
        )

    def answer(self, names: Sequence[str]) -> list[Tensor]:
        """What the caller asked for by name, all of them checked; by default the outputs.

        A version that takes features says the prediction's id without being asked.
        """
        own = (*self.outputs, PREDICTION_ID) if self.served.features else tuple(self.outputs)
        return [self._answered(name) for name in names or own]

    def _answered(self, name: str) -> Tensor:
        if name in self.outputs:
            return self.outputs[name]
        if name == PREDICTION_ID:
            ids = [prediction_id.encode() for prediction_id in self.prediction_ids]
            return Tensor(name, "BYTES", (len(ids),), ids)
        if name in self.attributions:
            return self.attributions[name]
        return self.inputs[name]


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that a version made no answer to; a `shadow` was asked for the log alone."""

    endpoint: str
    model: str
    served: ServedVersion
    arm: Arm
    rollout_generation: int
    # Of its first row, and the moment of that.
    prediction_id: str
    as_of_us: int
    reason: str
    shadow: bool


def _cut(tensors: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {name: tensor.cut(rows.start, rows.stop) for name, tensor in tensors.items()}

# SPDX-License-Identifier: Apache-2.0
"""The prediction log row by row: a record of `inference.predictions.<endpoint>` holds many."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from headrace.errors import Invalid
from headrace.inference.v1 import inference_events_pb2 as pb

FEATURES, SCORE = "features", "score"
FLOAT_BYTES, INT64_BYTES = 4, 8
ROW_DIGITS = 8
# More than any request may hold: what claims more would only fill the memory.
RUN_ROWS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class LoggedPrediction:
    """One answered row of a version that takes features; `shadow_version` 0: no other arm.

    `event_times_us`, of each feature: when the newest observation happened that was looked at for
    it, -1 where there was none; empty where nobody knew them, as by tensors.
    """

    prediction_id: str
    endpoint: str
    model: str
    version: int
    digest: str
    entity_key: str
    as_of_us: int
    served_at_us: int
    features: tuple[float, ...]
    score: float
    arm: pb.Arm
    door: pb.Door
    rollout_generation: int
    shadow_version: int
    shadow_score: float
    # Of the record: who wrote it, and how many rows that one had answered by then.
    writer: str
    rows_answered: int
    event_times_us: tuple[int, ...] = ()


def logged_predictions(value: bytes) -> list[LoggedPrediction]:
    """The rows of a record; raises what `read_record` and `rows_of` raise."""
    return rows_of(read_record(value))


def read_record(value: bytes) -> pb.PredictionsMade:
    """Raises Invalid DECODE_ERROR for what is no such record, and MISSING_FIELD."""
    try:
        made = pb.PredictionsMade.FromString(value)
    except DecodeError as err:
        raise Invalid("DECODE_ERROR", message="PredictionsMade") from err
    if not (made.first_prediction_ids or made.refused or made.nonfinite) or not made.endpoint:
        raise Invalid("MISSING_FIELD", message="PredictionsMade")
    return made


def rows_of(made: pb.PredictionsMade) -> list[LoggedPrediction]:
    """None of a version that takes the tensors of its own model, nor of requests that were answered
    by a reason.

    Raises Invalid DECODE_ERROR where the columns differ in length.
    """
    if SCORE not in {tensor.name for tensor in made.outputs}:
        return []
    ids, as_of_us, served_at_us = _runs(made)
    rows = len(ids)
    keys = made.entity_keys or ("",) * rows
    features, scores = _floats(made.inputs, FEATURES), _floats(made.outputs, SCORE)
    shadows = _floats(made.shadow.outputs, SCORE) if made.HasField("shadow") else (0.0,) * rows
    times = _int64s(made.event_times.contents)
    width = len(features) // rows
    lengths = {rows, len(keys), len(scores), len(shadows)}
    if len(lengths) > 1 or width * rows != len(features) or len(times) not in (0, len(features)):
        raise Invalid("DECODE_ERROR", message="PredictionsMade", rows=rows)
    return [
        LoggedPrediction(
            prediction_id=ids[row],
            endpoint=made.endpoint,
            model=made.model,
            version=made.version,
            digest=made.digest,
            entity_key=keys[row],
            as_of_us=as_of_us[row],
            served_at_us=served_at_us[row],
            features=features[row * width : (row + 1) * width],
            score=scores[row],
            arm=made.arm,
            door=made.door,
            rollout_generation=made.rollout_generation,
            shadow_version=made.shadow.version,
            shadow_score=shadows[row],
            writer=made.writer,
            rows_answered=made.rows_answered,
            event_times_us=times[row * width : (row + 1) * width],
        )
        for row in range(rows)
    ]


def made_here(made: pb.PredictionsMade, prediction_id: str) -> bool:
    """Whether the record holds this prediction, of whatever tensors."""
    return any(
        prediction_id == first or (rows > 1 and prediction_id in _counted(first, rows))
        for first, rows in zip(made.first_prediction_ids, made.run_rows, strict=False)
        if first[:-ROW_DIGITS] == prediction_id[:-ROW_DIGITS] and rows <= RUN_ROWS_MAX
    )


def one_row_record(
    *,
    features: Sequence[float] = (),
    score: float = 0.0,
    shadow: tuple[int, float] | None = None,
    prediction_id: str = "",
    entity_key: str = "",
    as_of_us: int = 0,
    served_at_us: int = 0,
    **fields: object,
) -> pb.PredictionsMade:
    """A record of one row, as the service writes it; for tests of what reads the log."""
    made = pb.PredictionsMade(
        first_prediction_ids=[prediction_id],
        run_rows=[1],
        entity_keys=[entity_key],
        as_of_us=[as_of_us],
        served_at_us=[served_at_us],
        inputs=[_tensor(FEATURES, features, (1, len(features)))],
        outputs=[_tensor(SCORE, [score], (1,))],
        **fields,  # type: ignore[arg-type]
    )
    if shadow is not None:
        version, other = shadow
        made.shadow.CopyFrom(pb.Shadow(version=version, outputs=[_tensor(SCORE, [other], (1,))]))
    return made


def row_ids(made: pb.PredictionsMade) -> list[str]:
    """The prediction id of each row; raises Invalid DECODE_ERROR."""
    return _runs(made)[0]


def _runs(made: pb.PredictionsMade) -> tuple[list[str], list[int], list[int]]:
    """Of each row its id and its moments."""
    runs = len(made.first_prediction_ids)
    columns = (made.run_rows, made.as_of_us, made.served_at_us)
    if {runs} != {*map(len, columns)} or any(
        not 0 < rows <= RUN_ROWS_MAX for rows in made.run_rows
    ):
        raise Invalid("DECODE_ERROR", message="PredictionsMade", runs=runs)
    ids: list[str] = []
    for first, rows in zip(made.first_prediction_ids, made.run_rows, strict=True):
        ids += [first] if rows == 1 else _counted(first, rows)
    as_of_us, served_at_us = (
        [moment for moment, rows in zip(column, made.run_rows, strict=True) for _ in range(rows)]
        for column in columns[1:]
    )
    return ids, as_of_us, served_at_us


def _counted(first: str, rows: int) -> list[str]:
    base, digits = first[:-ROW_DIGITS], first[-ROW_DIGITS:]
    try:
        number = int(digits, 16)
    except ValueError as err:
        raise Invalid("DECODE_ERROR", message="PredictionsMade", prediction_id=first) from err
    return [f"{base}{row:0{ROW_DIGITS}x}" for row in range(number, number + rows)]


def _floats(tensors: Iterable[pb.LoggedTensor], name: str) -> tuple[float, ...]:
    """Of an FP32 tensor; nothing when it was left out."""
    for tensor in tensors:
        if tensor.name == name and len(tensor.contents) % FLOAT_BYTES == 0:
            return struct.unpack(f"<{len(tensor.contents) // FLOAT_BYTES}f", tensor.contents)
    return ()


def _int64s(contents: bytes) -> tuple[int, ...]:
    """Raises Invalid DECODE_ERROR."""
    if len(contents) % INT64_BYTES:
        raise Invalid("DECODE_ERROR", message="PredictionsMade", event_times_bytes=len(contents))
    return struct.unpack(f"<{len(contents) // INT64_BYTES}q", contents)


def _tensor(name: str, values: Sequence[float], shape: Sequence[int]) -> pb.LoggedTensor:
    contents = struct.pack(f"<{len(values)}f", *values)
    return pb.LoggedTensor(name=name, datatype="FP32", shape=shape, contents=contents)

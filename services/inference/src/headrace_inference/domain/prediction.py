# SPDX-License-Identifier: Apache-2.0
"""The answer to a request, column by column: what the caller gets and what the log keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from headrace_inference.domain.request import Door
from headrace_inference.domain.rollout import Arm, ServedVersion
from headrace_inference.domain.serving import Floats


@dataclass(frozen=True, slots=True)
class Shadow:
    """What the other arm would have said."""

    version: int
    scores: Floats


@dataclass(frozen=True, slots=True)
class Prediction:
    """Rows that one version answered (P9)."""

    request_id: str
    endpoint: str
    model: str
    served: ServedVersion
    arm: Arm
    rollout_generation: int
    door: Door
    entity_keys: Sequence[str]
    as_of_us: NDArray[np.int64]
    features: Floats
    scores: Floats
    shadow: Shadow | None
    served_at_us: int
    prediction_ids: Sequence[str]


def prediction_ids(request_id: str, endpoint: str, rows: int) -> list[str]:
    """One for each row, stable over retries. The request id is last: it may hold any character."""
    return [
        sha256(f"{endpoint}\n{row}\n{request_id}".encode()).hexdigest()[:32] for row in range(rows)
    ]

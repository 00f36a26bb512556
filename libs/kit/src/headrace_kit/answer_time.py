# SPDX-License-Identifier: Apache-2.0
"""Until when the caller waits whose call this thread works on.

What may stand still, a database that is frozen for one, is waited for no longer: the caller is told
why while it still listens, and the thread is free for others.
"""

from __future__ import annotations

import math
import time
from contextvars import ContextVar

# For the way back, and what is done on it.
WAY_BACK_S = 0.25
LEFT_S_MIN = 0.5

_until_s: ContextVar[float] = ContextVar("until_s", default=math.inf)


def answer_until(until_s: float) -> None:
    """The thread works on a call that is over at this time, by `time.monotonic`, from now on."""
    _until_s.set(until_s)


def left_s(cap_s: float) -> float:
    """How long this thread may wait for another; without a caller, and at most, the cap."""
    return min(cap_s, max(LEFT_S_MIN, _until_s.get() - WAY_BACK_S - time.monotonic()))

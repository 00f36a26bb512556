# SPDX-License-Identifier: Apache-2.0
"""Named places in the code where a test may end, stop, delay or break the process.

`HEADRACE_FAIL=ingest.sink.committed:3:kill` acts at the third hit; several are joined by commas.
Actions: kill, stop, raise, sleep:SECONDS. Unarmed, a failpoint costs one look at an empty table.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass

import structlog

from headrace.errors import Invalid

SLEEP_S_MAX = 600.0

log = structlog.get_logger(__name__)


class FailpointRaised(RuntimeError):
    """The bug that a failpoint with the action `raise` plays."""


@dataclass(slots=True)
class _Armed:
    hits_left: int
    action: str
    seconds: float


_armed: dict[str, _Armed] = {}
_lock = threading.Lock()


def arm(spec: str | None) -> None:
    """Arm what the text names and nothing else; raises Invalid BAD_SETTING for a wrong text."""
    armed = dict(_parse(item) for item in (spec or "").split(",") if item)
    with _lock:
        _armed.clear()
        _armed.update(armed)
    if armed:
        log.warning("failpoints_armed", names=sorted(armed))


def failpoint(name: str) -> None:
    """Act if this name is armed and this is the armed hit."""
    if _armed and name in _armed:
        _hit(name)


def _parse(item: str) -> tuple[str, _Armed]:
    name, _, rest = item.partition(":")
    hit, _, action = rest.partition(":")
    action, _, seconds = action.partition(":")
    known = action in ("kill", "stop", "raise") and not seconds
    sleeps = action == "sleep" and seconds.replace(".", "", 1).isdigit()
    if not (name and hit.isdigit() and int(hit) > 0 and (known or sleeps)):
        raise Invalid("BAD_SETTING", setting="HEADRACE_FAIL", value=item)
    return name, _Armed(int(hit), action, min(float(seconds or 0), SLEEP_S_MAX))


def _hit(name: str) -> None:
    with _lock:
        armed = _armed[name]
        armed.hits_left -= 1
        if armed.hits_left != 0:
            return
    log.warning("failpoint_hit", name=name, action=armed.action)
    if armed.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif armed.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif armed.action == "raise":
        raise FailpointRaised(name)
    else:
        time.sleep(armed.seconds)

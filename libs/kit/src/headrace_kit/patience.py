# SPDX-License-Identifier: Apache-2.0
"""Threads that take the core from nobody when they are woken (SCHED_BATCH, sched(7)).

On a core of one's own, a thread that is woken by each piece of another's work interrupts that work
each time, to find that it must wait for the interpreter's lock, or to do the same little thing once
more. One that is patient finds more to do at once. It waits at most for a slice of the scheduler's,
a few milliseconds, and for nothing where a core is idle.

Where there is no such policy, or a sandbox forbids to ask for it, threads stay as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def be_patient() -> None:
    """This thread from now on, and those that it starts."""
    with suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


@contextmanager
def patient_threads() -> Iterator[None]:
    """Those that are started within."""
    try:
        policy, param = os.sched_getscheduler(0), os.sched_getparam(0)
    except (AttributeError, OSError):
        yield
        return
    be_patient()
    try:
        yield
    finally:
        with suppress(AttributeError, OSError):
            os.sched_setscheduler(0, policy, param)

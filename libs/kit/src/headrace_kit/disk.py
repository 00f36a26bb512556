# SPDX-License-Identifier: Apache-2.0
"""A full disk is no bug: what was being written is given up, and tried again when there is room."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.errors import Busy

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def needing_room(path: Path) -> Iterator[None]:
    """Raises Busy DISK_FULL where no room is left; other errors stay what they are."""
    try:
        yield
    except OSError as err:
        if err.errno not in FULL:
            raise
        raise Busy("DISK_FULL", path=path.name) from err


def tells_full(error: Exception) -> bool:
    """Of who passes on the text of the system and not its number, as DuckDB and delta-rs do."""
    return any(os.strerror(number) in str(error) for number in FULL)

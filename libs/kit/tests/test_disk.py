# SPDX-License-Identifier: Apache-2.0
"""What a full disk becomes, and what it does not."""

import errno
from pathlib import Path

import pytest

from headrace.errors import Busy
from headrace_kit.disk import needing_room


def test_full_disk_is_busy():
    with pytest.raises(Busy, match="DISK_FULL"), needing_room(Path("/dev/full")):
        Path("/dev/full").write_bytes(b"x")


def test_other_errors_stay_what_they_are():
    with pytest.raises(OSError, match="x") as raised, needing_room(Path("a")):
        raise OSError(errno.EIO, "x")

    assert errno.EIO == raised.value.errno

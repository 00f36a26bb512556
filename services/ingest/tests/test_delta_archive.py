# SPDX-License-Identifier: Apache-2.0
"""An archive that finds no room says so: to look at the store's address would be in vain."""

from __future__ import annotations

import errno
import os

import pytest

from headrace.errors import Unavailable
from headrace_ingest.adapters.delta_archive import DeltaArchive
from headrace_ingest.testing import a_contract


@pytest.mark.parametrize(
    ("code", "told"), [(errno.ENOSPC, "its disk is full"), (errno.EIO, "flights.departed")]
)
def test_store_without_room_is_told_apart_from_one_that_is_away(tmp_path, monkeypatch, code, told):
    def create(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("headrace_ingest.adapters.delta_archive.DeltaTable.create", create)
    archive = DeltaArchive(tmp_path.as_uri(), {})

    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE") as away:
        archive.open(a_contract(), "topic", {0}, ids_max=1)

    assert told == [*away.value.metadata.values()][-1]

# SPDX-License-Identifier: Apache-2.0
"""Single commits of a Delta table's log (Delta protocol, "Delta Log Entries"), read as they are.

`DeltaTable.history` numbers what it lists anew from the version that the table was opened at: with
each commit that comes between, all its numbers are one too low.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import PyFileSystem


def took_rows(uri: str, options: Mapping[str, str], versions: Iterable[int]) -> bool:
    """Whether one of the commits took rows out, which one that only wrote files anew did not.

    Raises FileNotFoundError where the log has forgotten one, DeltaError, OSError.
    """
    files = PyFileSystem(DeltaStorageHandler(uri, dict(options)))
    return any(_took_rows(files, version) for version in versions)


def _took_rows(files: PyFileSystem, version: int) -> bool:
    with files.open_input_stream(f"_delta_log/{version:020}.json") as commit:
        actions = [json.loads(line) for line in commit.read().splitlines()]
    return any(each["remove"]["dataChange"] for each in actions if "remove" in each)

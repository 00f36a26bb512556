# SPDX-License-Identifier: Apache-2.0
"""Files in the folder of a Delta table that no version of it names, and none ever will.

A commit that Delta refuses leaves the files it was to name, and so does a process that ends before
its commit; they hold rows that no later erasure meets. Delta's full vacuum finds them, but has one
age for them and for replaced files, which time travel needs longer. So it is asked what would go,
and what its log calls removed is taken off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice

import structlog
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSelector, FileType, PyFileSystem

# Nobody commits files that are older. Loops of ingest and feature that delete, append or compact
# end their service when a round takes five minutes, and MaterializeView commits nothing that it
# began twelve hours before. A deletion of EraseEntity has no such end, but would have to rewrite
# files for a day, which the loop that goes on with it never could. The rest is for clocks.
ORPHAN_AGE_H = 24
# Of one pass; the rest goes with the next. One by one S3 may take 0.1 s for each, and a step that
# takes five minutes ends the service.
FILES_MAX = 2_000

log = structlog.get_logger(__name__)


def remove_orphans(
    table: DeltaTable, uri: str, options: Mapping[str, str], keep: Collection[int]
) -> None:
    """What versions to `keep` name stays, also when the newest log has forgotten it.

    Raises DeltaError, OSError.
    """
    files = DeltaStorageHandler(uri, dict(options))
    removed = 0
    for path in islice(_orphans(table, keep), FILES_MAX):
        with suppress(FileNotFoundError):  # another process was faster
            files.delete_file(path)
            removed += 1
    if removed:
        log.info("orphans_removed", uri=uri, files=removed)


def files_below(uri: str, options: Mapping[str, str]) -> list[str]:
    """Their paths from there; none where no folder is."""
    try:
        files = PyFileSystem(DeltaStorageHandler(uri, dict(options)))
    except TableNotFoundError:
        return []
    found = files.get_file_info(FileSelector("", allow_not_found=True, recursive=True))
    return [each.path for each in found if each.type == FileType.File]


def remove_some(uri: str, options: Mapping[str, str], paths: Sequence[str]) -> None:
    """FILES_MAX of what lies in a table that nobody reads or writes any more; empty folders stay.

    Raises DeltaError, OSError.
    """
    files = DeltaStorageHandler(uri, dict(options))
    for path in paths[:FILES_MAX]:
        with suppress(FileNotFoundError):  # another process was faster
            files.delete_file(path)


def _orphans(table: DeltaTable, keep: Collection[int]) -> Iterator[str]:
    """Both answers are of the version that was opened: what is committed meanwhile is younger."""
    unnamed = table.vacuum(
        retention_hours=ORPHAN_AGE_H,
        enforce_retention_duration=False,
        full=True,
        keep_versions=list(keep),
    )
    replaced = table.vacuum(retention_hours=0, enforce_retention_duration=False)
    yield from set(unnamed).difference(replaced)

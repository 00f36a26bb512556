# SPDX-License-Identifier: Apache-2.0
"""The erasures that are noted: each listed, and each known before a record is read.

One whose note cannot be read keeps no other one from either, and the service from no start.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from headrace.errors import Corrupt, Invalid
from headrace_ingest.domain.datasets import page_limit
from headrace_ingest.domain.erasures import Erasure
from headrace_ingest.ports.erasures import ErasureBook, ErasureNews
from headrace_kit.erased_entities import ErasedEntities

# Of notes, some from the object store each.
READS_AT_ONCE = 16

log = structlog.get_logger(__name__)


def tell_again(
    *, erasures: ErasureBook, told: Collection[str], erased: ErasedEntities, news: ErasureNews
) -> list[Erasure]:
    """Tells the erasures that are noted and not known from their topic, which are answered.

    The topic may have been deleted; what was erased stays erased all the same. `told`: the ids that
    are on it, of which no note is read: a start waits for this, and there may be thousands.
    """
    newest: dict[tuple[str, str], Erasure] = {}
    found, _ = _read([each for each in erasures.ids() if each not in told], erasures)
    for erasure in sorted(found, key=lambda each: each.entity.erased_at_us):
        newest[erasure.entity.column, erasure.entity.sha256] = erasure
    lost = [erasure for erasure in newest.values() if not erased.knows(erasure.entity)]
    for erasure in lost:
        news.tell(erasure)
        erased.take(erasure.entity)
    return lost


def list_erasures(
    page_size: int, token: str, *, erasures: ErasureBook
) -> tuple[list[Erasure], list[str], str]:
    """A page by id, the ids in it whose note cannot be read, and the token of the next page.

    Raises Invalid BAD_REQUEST.
    """
    limit = page_limit(page_size)
    if token and not re.fullmatch(r"[0-9a-f]{32}", token):
        raise Invalid("BAD_REQUEST", field="page_token", problem="is not one of this list")
    ids = [each for each in erasures.ids() if each > token]
    return *_read(ids[:limit], erasures), ids[limit - 1] if len(ids) > limit else ""


def _read(ids: Sequence[str], erasures: ErasureBook) -> tuple[list[Erasure], list[str]]:
    """Those of the ids that are there, and which cannot be read."""
    unreadable = []

    def read(named: str) -> Erasure | None:
        try:
            return erasures.get(named)
        except Corrupt as err:
            log.error("erasure_unreadable", erasure=named, error=str(err))
            unreadable.append(named)
            return None

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        found = [each for each in pool.map(read, ids) if each is not None]
    return found, sorted(unreadable)

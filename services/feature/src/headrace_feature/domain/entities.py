# SPDX-License-Identifier: Apache-2.0
"""Names of entities: 16 bytes of a hash of their values' one spelling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from headrace.entity import entity_digest

ENTITIES_KNOWN_MAX = 65_536
MISSES_MAX = 16  # for each that is known, before others may be


def digests(entities: Sequence[tuple[str, ...]]) -> NDArray[np.uint64]:
    """[2, entities]: 16 bytes that name each one's values, in two halves."""
    named = b"".join(_known.digests(entities))
    halves = np.frombuffer(named, dtype=">u8").reshape(-1, 2)
    return np.ascontiguousarray(halves.T, dtype=np.uint64)


class KnownDigests:
    """Those of some entities; any thread may ask.

    Of many entities most are met once in a batch, and to let each push another out would cost as
    much as its digest. So those stay that came first, until many others were asked for.
    """

    def __init__(self, entities_max: int) -> None:
        self._max, self._missed = entities_max, 0
        self._known: dict[tuple[str, ...], bytes] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, entity: object) -> bool:
        return entity in self._known

    def digests(self, entities: Sequence[tuple[str, ...]]) -> Iterable[bytes]:
        found = list(map(self._known.get, entities))
        missing = [each for each, digest in zip(entities, found, strict=True) if digest is None]
        if not missing:
            return cast(list[bytes], found)
        made = list(map(entity_digest, missing))
        self._keep(missing, made)
        if len(made) == len(found):
            return made
        rest = iter(made)
        return [digest or next(rest) for digest in found]

    def _keep(self, missing: Sequence[tuple[str, ...]], made: Sequence[bytes]) -> None:
        self._missed += len(missing)
        if self._missed > MISSES_MAX * self._max:
            self._known, self._missed = {}, 0
        room = self._max - len(self._known)
        self._known.update(zip(missing[:room], made, strict=False))


_known = KnownDigests(ENTITIES_KNOWN_MAX)

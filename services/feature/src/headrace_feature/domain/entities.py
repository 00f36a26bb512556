# SPDX-License-Identifier: Apache-2.0
"""Names of entities: 16 bytes of a hash of their values' one spelling."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from headrace.entity import entity_digest, name_digest

ENTITIES_KNOWN_MAX = 65_536
MISSES_MAX = 16  # for each that is known, before others may be
# Of so many at least nearly all were unknown: so many times nobody looks.
FEW_ENTITIES_MAX, UNKNOWN_SHARE, BLIND_CALLS = 1_024, 7 / 8, 15
Entity = TypeVar("Entity")


def digests(entities: Sequence[tuple[str, ...]]) -> NDArray[np.uint64]:
    """[2, entities]: 16 bytes that name each one's values, in two halves."""
    return _halves(_of_values.digests(entities))


def digests_of_names(names: Sequence[bytes]) -> NDArray[np.uint64]:
    """The same of entities by their names: see `headrace.entity.entity_name`."""
    return _halves(_of_names.digests(names))


def _halves(digests: Iterable[bytes]) -> NDArray[np.uint64]:
    halves = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2)
    return np.ascontiguousarray(halves.T, dtype=np.uint64)


class KnownDigests(Generic[Entity]):
    """Those of some entities; any thread may ask.

    Of many entities most are met once in a batch, and to let each push another out would cost as
    much as its digest. So those stay that came first, until many others were asked for. Where
    nearly all are met once, looking is dearer than what it finds, and done now and then.
    """

    def __init__(self, digest: Callable[[Entity], bytes], entities_max: int) -> None:
        self._digest, self._max, self._missed, self._blind = digest, entities_max, 0, 0
        self._known: dict[Entity, bytes] = {}
        self._keeping = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, entity: object) -> bool:
        return entity in self._known

    def digests(self, entities: Sequence[Entity]) -> Iterable[bytes]:
        if self._blind > 0 and len(entities) > FEW_ENTITIES_MAX:
            self._blind -= 1
            return list(map(self._digest, entities))
        found = list(map(self._known.get, entities))
        missing = [each for each, digest in zip(entities, found, strict=True) if digest is None]
        if not missing:
            return cast(list[bytes], found)
        made = list(map(self._digest, missing))
        self._keep(missing, made)
        if len(missing) > max(FEW_ENTITIES_MAX, UNKNOWN_SHARE * len(entities)):
            self._blind = BLIND_CALLS
        if len(made) == len(found):
            return made
        rest = iter(made)
        return [digest or next(rest) for digest in found]

    def _keep(self, missing: Sequence[Entity], made: Sequence[bytes]) -> None:
        """One at a time: two that saw the same room would both fill it."""
        with self._keeping:
            self._missed += len(missing)
            if self._missed > MISSES_MAX * self._max:
                self._known, self._missed = {}, 0
            room = self._max - len(self._known)
            self._known.update(zip(missing[:room], made, strict=False))


_of_values = KnownDigests(entity_digest, ENTITIES_KNOWN_MAX)
_of_names = KnownDigests(name_digest, ENTITIES_KNOWN_MAX)

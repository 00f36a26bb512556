# SPDX-License-Identifier: Apache-2.0
"""ErasureBook on an object store: `erasures/<id>/begun.json`, then `clean.json` and `settled`.

Each is put once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

from pydantic import TypeAdapter, ValidationError

from headrace.errors import Corrupt, NotFound
from headrace_ingest.domain.erasures import Erasure
from headrace_kit.objects import ObjectStore

ROOT = "erasures"
BEGUN, CLEAN, SETTLED = "begun.json", "clean.json", "settled"
_ERASURE = TypeAdapter(Erasure)
_VERSIONS = TypeAdapter(dict[str, int])


class ObjectErasureBook:
    """ErasureBook; what was erased, and by which request, outlives every database."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def get(self, erasure_id: str) -> Erasure | None:
        try:
            return self._read(erasure_id)
        except NotFound:
            return None
        except ValidationError as err:  # which quotes what it read
            raise Corrupt("ERASURE_UNREADABLE", erasure=erasure_id) from err

    def _read(self, erasure_id: str) -> Erasure:
        erasure = _ERASURE.validate_json(self._objects.get(_key(erasure_id, BEGUN)))
        noted = {key.rpartition("/")[2] for key in self._objects.keys(f"{ROOT}/{erasure_id}")}
        clean = None
        if CLEAN in noted:
            clean = _VERSIONS.validate_json(self._objects.get(_key(erasure_id, CLEAN)))
        return replace(erasure, settled=SETTLED in noted, clean_version_by_stream=clean)

    def begin(self, erasure: Erasure) -> Erasure:
        noted = json.dumps(asdict(erasure), indent=1, sort_keys=True).encode()
        if self._objects.put_if_absent(_key(erasure.id, BEGUN), noted):
            return erasure
        return self.get(erasure.id) or erasure

    def note_clean(self, erasure_id: str, version_by_stream: Mapping[str, int]) -> None:
        noted = json.dumps(dict(version_by_stream), indent=1, sort_keys=True).encode()
        self._objects.put_if_absent(_key(erasure_id, CLEAN), noted)

    def settle(self, erasure_id: str) -> None:
        self._objects.put_if_absent(_key(erasure_id, SETTLED), b"")

    def ids(self) -> list[str]:
        return sorted({key.split("/")[1] for key in self._objects.keys(ROOT)})

    def unsettled(self) -> list[str]:
        """From one listing: nothing is read."""
        ends = [key.split("/")[1:] for key in self._objects.keys(ROOT)]
        settled = {named for named, noted in ends if noted == SETTLED}
        return sorted({named for named, _ in ends} - settled)


def _key(erasure_id: str, noted: str) -> str:
    return f"{ROOT}/{erasure_id}/{noted}"

# SPDX-License-Identifier: Apache-2.0
"""ErasureBook on an object store: `erasures/<id>/begun.json`, then `settled`; both are put once."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from pydantic import TypeAdapter

from headrace.errors import NotFound
from headrace_ingest.domain.erasures import Erasure
from headrace_kit.objects import ObjectStore

ROOT = "erasures"
_ERASURE = TypeAdapter(Erasure)


class ObjectErasureBook:
    """ErasureBook; what was erased, and by which request, outlives every database."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def get(self, erasure_id: str) -> Erasure | None:
        try:
            erasure = _ERASURE.validate_json(self._objects.get(f"{ROOT}/{erasure_id}/begun.json"))
        except NotFound:
            return None
        return replace(erasure, settled=self._objects.exists(f"{ROOT}/{erasure_id}/settled"))

    def begin(self, erasure: Erasure) -> Erasure:
        noted = json.dumps(asdict(erasure), indent=1, sort_keys=True).encode()
        if self._objects.put_if_absent(f"{ROOT}/{erasure.id}/begun.json", noted):
            return erasure
        return self.get(erasure.id) or erasure

    def settle(self, erasure_id: str) -> None:
        self._objects.put_if_absent(f"{ROOT}/{erasure_id}/settled", b"")

    def ids(self) -> list[str]:
        return sorted({key.split("/")[1] for key in self._objects.keys(ROOT)})

    def unsettled(self) -> list[str]:
        """From one listing: nothing is read."""
        ends = [key.split("/")[1:] for key in self._objects.keys(ROOT)]
        settled = {named for named, noted in ends if noted == "settled"}
        return sorted({named for named, _ in ends} - settled)

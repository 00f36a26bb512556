# SPDX-License-Identifier: Apache-2.0
"""DatasetBook on an object store: what a database could lose is kept beside the rows themselves.

`datasets/<name>/` holds `<number>.json`, `<number>.deleted`, `tags/<tag>/<generation>.json` and
`requests/<sha256 of the claim's name>.json`; `<number>.revisions/<n>.json` is the manifest after
its rows got a table of their own, or an erasure took some out. Every object is put once and, but
for values that an erasure forgets, never changed: so numbers and generations have no gap and no
second owner, by conditional puts alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter

from headrace.errors import Conflict, NotFound
from headrace_ingest.domain.datasets import Claim, Manifest, Tag
from headrace_kit.failpoints import failpoint
from headrace_kit.objects import ObjectStore

ROOT = "datasets"
NUMBER_MAX = 999_999
_CLAIM, _MANIFEST, _TAG = TypeAdapter(Claim), TypeAdapter(Manifest), TypeAdapter(Tag)
Read = TypeVar("Read")


class ObjectDatasetBook:
    """DatasetBook; holds nothing that may change, so any number of processes may."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        # Of each dataset there is, for good: to read its manifest may take several requests.
        self._streams: dict[tuple[str, int], str] = {}

    def claimed(self, name: str, named: str) -> Claim | None:
        return self._found(_claim_key(name, named), _CLAIM)

    def claim(self, name: str, named: str, claim: Claim) -> Claim:
        key = _claim_key(name, named)
        fixed = replace(claim, above=max(self._numbers(name), default=0))
        self._objects.put_if_absent(key, _json(fixed))
        return self._read(key, _CLAIM)

    def made_by(self, name: str, request_id: str, claim: Claim) -> Manifest | None:
        for number in self._numbers(name):
            if number > claim.above:
                manifest = self._read(_manifest_key(name, number), _MANIFEST)
                if manifest.request_id == request_id:
                    return manifest
        return None

    def add(self, manifest: Manifest, claim: Claim) -> Manifest:
        number = claim.above + 1
        failpoint("ingest.dataset.described")
        while not self._objects.put_if_absent(
            _manifest_key(manifest.name, number), _json(replace(manifest, number=number))
        ):
            # Taken since: by the same request in another process, or by another one.
            there = self._read(_manifest_key(manifest.name, number), _MANIFEST)
            if there.request_id == manifest.request_id:
                return there
            number += 1
        failpoint("ingest.dataset.added")
        return replace(manifest, number=number)

    def get(self, name: str, number: int) -> Manifest:
        if not 0 < number <= NUMBER_MAX:
            raise NotFound("DATASET_UNKNOWN", name=name, number=number)
        if self._objects.exists(_deleted_key(name, number)):
            raise Conflict("DATASET_DELETED", name=name, number=number)
        return self._manifest(name, number)

    def newest_number(self, name: str) -> int:
        places = self.places(name)
        if not places:
            raise NotFound("DATASET_UNKNOWN", name=name)
        return places[0][1]

    def places(self, name: str = "") -> list[tuple[str, int]]:
        keys = set(self._objects.keys(f"{ROOT}/{name}" if name else ROOT))
        found = [
            (named, number)
            for named, number in map(_place, keys)
            if number and _deleted_key(named, number) not in keys
        ]
        return sorted(found, key=lambda each: (each[0], -each[1]))

    def places_of(self, stream: str) -> list[tuple[str, int]]:
        known, streams = self._streams, dict[tuple[str, int], str]()
        for place in self.places():
            streams[place] = known.get(place) or self._stream_of(place)
        self._streams = streams
        return [place for place, of in streams.items() if of == stream]

    def _stream_of(self, place: tuple[str, int]) -> str:
        return self._read(_manifest_key(*place), _MANIFEST).selection.stream

    def deleted(self) -> set[tuple[str, int]]:
        keys = set(self._objects.keys(ROOT))
        return {place for place in map(_place, keys) if place[1] and _deleted_key(*place) in keys}

    def delete(self, name: str, number: int) -> None:
        self._manifest(name, number)
        self._objects.put_if_absent(_deleted_key(name, number), b"{}")

    def tag(self, name: str, tag: str) -> Tag:
        found = [each for each in self.tags(name) if each.tag == tag]
        if not found:
            raise NotFound("DATASET_UNKNOWN", name=name, tag=tag)
        return found[0]

    def tags(self, name: str) -> list[Tag]:
        newest: dict[str, int] = {}
        for key in self._objects.keys(f"{ROOT}/{name}/tags"):
            tag, _, generation = key.split("/", 3)[3].removesuffix(".json").rpartition("/")
            newest[tag] = max(newest.get(tag, 0), int(generation))
        return [self._read(_tag_key(name, *each), _TAG) for each in sorted(newest.items())]

    def move(self, tag: Tag) -> Tag:
        before, key = tag.generation - 1, _tag_key(tag.name, tag.tag, tag.generation)
        known = before == 0 or self._objects.exists(_tag_key(tag.name, tag.tag, before))
        if not known or not self._objects.put_if_absent(key, _json(tag)):
            there = self._found(key, _TAG)
            if there is None or there.request_id != tag.request_id:
                raise Conflict("TAG_MOVED", name=tag.name, tag=tag.tag, generation_expected=before)
            return there
        return tag

    def written(self) -> list[str]:
        return self._objects.keys(ROOT)

    def revise(self, manifest: Manifest) -> bool:
        revised = replace(manifest, revision=manifest.revision + 1)
        key = _revision_key(revised.name, revised.number, revised.revision)
        self._objects.put_if_absent(key, _json(revised))
        # Read, for a put whose answer was lost is tried again, and then meets itself.
        stored = self._read(key, _MANIFEST)
        self.forget_values(self._manifest(manifest.name, manifest.number))
        return (stored.selection, stored.erasures) == (revised.selection, revised.erasures)

    def forget_values(self, manifest: Manifest) -> None:
        place = manifest.name, manifest.number
        earlier = [_revision_key(*place, each) for each in range(1, manifest.revision)]
        for key in (_manifest_key(*place), *earlier):
            before = self._read(key, _MANIFEST)
            content = replace(before.content, columns=manifest.content.columns)
            if content != before.content:
                self._objects.put(key, _json(replace(before, content=content)))

    def _manifest(self, name: str, number: int) -> Manifest:
        manifest = self._found(_manifest_key(name, number), _MANIFEST)
        if manifest is None:
            raise NotFound("DATASET_UNKNOWN", name=name, number=number)
        revision = 1
        while (later := self._found(_revision_key(name, number, revision), _MANIFEST)) is not None:
            manifest, revision = later, revision + 1
        return manifest

    def _numbers(self, name: str) -> list[int]:
        """All that were given out, deleted ones too, sorted."""
        keys = self._objects.keys(f"{ROOT}/{name}")
        return sorted(number for _, number in map(_place, keys) if number)

    def _found(self, key: str, kind: TypeAdapter[Read]) -> Read | None:
        try:
            return self._read(key, kind)
        except NotFound:
            return None

    def _read(self, key: str, kind: TypeAdapter[Read]) -> Read:
        return kind.validate_json(self._objects.get(key))


def _json(value: Any) -> bytes:
    return json.dumps(asdict(value), indent=1, sort_keys=True).encode()


def _manifest_key(name: str, number: int) -> str:
    return f"{ROOT}/{name}/{number}.json"


def _deleted_key(name: str, number: int) -> str:
    return f"{ROOT}/{name}/{number}.deleted"


def _revision_key(name: str, number: int, revision: int) -> str:
    return f"{ROOT}/{name}/{number}.revisions/{revision}.json"


def _tag_key(name: str, tag: str, generation: int) -> str:
    return f"{ROOT}/{name}/tags/{tag}/{generation}.json"


def _claim_key(name: str, named: str) -> str:
    return f"{ROOT}/{name}/requests/{hashlib.sha256(named.encode()).hexdigest()}.json"


def _place(key: str) -> tuple[str, int]:
    """Name and number of a manifest's key; the number is 0 for another one."""
    _, name, *rest = key.split("/")
    number = rest[0].removesuffix(".json") if len(rest) == 1 else ""
    return name, int(number) if number.isdecimal() else 0

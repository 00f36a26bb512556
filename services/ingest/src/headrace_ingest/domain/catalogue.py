# SPDX-License-Identifier: Apache-2.0
"""The catalogue: what data there are, by name, owner, description and class, for a search by words.

It holds nothing of its own: entries are made of the applied definitions and of manifests.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from headrace.data_contract import Column
from headrace.errors import Invalid
from headrace.feature_view import View
from headrace_ingest.domain.contract import Contract
from headrace_ingest.domain.datasets import Manifest, Tag

KINDS = ("stream", "column", "view", "feature", "dataset", "tag")
WORDS_MAX = 16
QUERY_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that can be found; `name` is how it is referred to."""

    kind: str
    name: str
    owner: str = ""
    description: str = ""
    details: str = ""


def words_of(text: str) -> list[str]:
    """Letters and digits between everything else, in lower case and without accents.

    `flights.dep_delay` is three words.
    """
    letters = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(each for each in letters if not unicodedata.combining(each))
    return re.findall(r"[^\W_]+", plain)


def query_words(query: str) -> list[str]:
    """Raises Invalid BAD_REQUEST for a query without words, or with too many."""
    words = words_of(query) if len(query) <= QUERY_CHARACTERS_MAX else []
    if not 0 < len(words) <= WORDS_MAX:
        raise Invalid("BAD_REQUEST", field="query", problem=f"must have 1 to {WORDS_MAX} words")
    return words


def stream_entries(contract: Contract) -> Iterator[Entry]:
    """The stream, and each of its columns."""
    stream = contract.stream
    details = f"contract {contract.version}, key {stream.key}"
    yield Entry("stream", stream.name, stream.owner, stream.description, details)
    for name, column in stream.columns.items():
        told = _told(column)
        yield Entry("column", f"{stream.name}:{name}", stream.owner, column.description or "", told)


def _told(column: Column) -> str:
    """All that the contract says of a column beside its description, classes included."""
    said = column.model_dump(mode="json", exclude_defaults=True, exclude={"description"})
    return ", ".join(f"{key} {value}" for key, value in said.items())


def view_entries(view: View, version: int) -> Iterator[Entry]:
    """The view, and each of its features."""
    yield Entry("view", view.name, "", view.description, f"version {version}")
    for name in view.features:
        yield Entry("feature", f"{view.name}:{name}", "", view.description)


def dataset_entries(manifest: Manifest, tags: Sequence[Tag]) -> Iterator[Entry]:
    """The dataset, and each tag that points to it."""
    selection = manifest.selection
    rows = manifest.content.rows - manifest.rows_erased
    details = f"{rows} rows of {selection.stream} {selection.filter}".rstrip()
    name = f"{manifest.name}/{manifest.number}"
    yield Entry("dataset", name, "", manifest.description, details)
    for tag in tags:
        yield Entry("tag", f"{manifest.name}@{tag.tag}", "", manifest.description, f"is {name}")


def page_token(query: str, kinds: Sequence[str], offset: int) -> str:
    """Where the next page begins, with a check, so that a changed token is refused."""
    check = hashlib.sha256(repr((query, tuple(kinds), offset)).encode()).hexdigest()[:16]
    return f"{offset}.{check}"


def page_offset(query: str, kinds: Sequence[str], token: str) -> int:
    """The inverse of `page_token`; raises Invalid BAD_REQUEST."""
    if not token:
        return 0
    found = re.fullmatch(r"(\d{1,6})\.[0-9a-f]{16}", token)
    if found is None or page_token(query, kinds, int(found[1])) != token:
        raise Invalid("BAD_REQUEST", field="page_token", problem="is not one of this search")
    return int(found[1])

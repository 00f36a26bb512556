# SPDX-License-Identifier: Apache-2.0
"""Datasets of a running Headrace: rows that never change, by name, number and tag.

Rows come as Arrow, piece by piece; pyarrow and polars are imported when rows are asked for in their
form, and not before (extra `data`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from headrace.errors import Invalid
from headrace.ingest.v1 import catalogue_pb2 as cat
from headrace.ingest.v1 import datasets_pb2 as pb
from headrace.ingest.v1 import erasures_pb2 as er
from headrace.ingest.v1 import ingest_service_pb2_grpc
from headrace.ingest.v1 import text_search_pb2 as ts
from headrace.pieces import PieceFile
from headrace.rpc import call, error_of, pages

CALL_S = 10.0
WORK_S = 300.0
REFERENCE = re.compile(r"([a-z0-9][a-z0-9\-.]*)(?:/(\d{1,6})|@([a-z0-9][a-z0-9\-.]*))?")


def reference(text: str) -> pb.DatasetReference:
    """`name` (the newest one), `name/3` or `name@tag`; raises Invalid BAD_NAME."""
    found = REFERENCE.fullmatch(text)
    if found is None:
        raise Invalid("BAD_NAME", dataset=text, problem="is neither NAME, NAME/NUMBER nor NAME@TAG")
    name, number, tag = found.groups()
    return pb.DatasetReference(name=name, number=int(number or 0), tag=tag or "")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows on their way: take them once, in one of the forms."""

    pieces: Iterable[bytes]

    def batches(self) -> Any:
        """A `pyarrow.RecordBatchReader`: memory holds a batch, whatever the number of rows."""
        import pyarrow as pa

        return pa.ipc.open_stream(pa.PythonFile(PieceFile(self.pieces), "r"))

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`."""
        return self.batches().read_all()

    def to_polars(self) -> Any:
        """A `polars.DataFrame`."""
        import polars as pl

        return pl.from_arrow(self.to_arrow())


class Datasets:
    """What `Client.datasets` gives; safe to use from several threads."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub: Any = ingest_service_pb2_grpc.DatasetServiceStub(channel)

    def create(
        self,
        name: str,
        *,
        stream: str = "",
        view: str = "",
        filter: str = "",
        description: str = "",
        delta_version: int | None = None,
        known_until_us: int = 0,
        request_id: str | None = None,
    ) -> pb.Dataset:
        """Names rows of a stream, or of the offline feature table of a view, for good."""
        request = pb.CreateDatasetRequest(
            request_id=request_id or str(uuid.uuid4()),
            name=name,
            description=description,
            stream=stream,
            view=view,
            filter=filter,
            delta_version=delta_version,
            known_until_us=known_until_us,
        )
        return call(self._stub.CreateDataset, request, timeout_s=WORK_S, retries_max=3).dataset

    def get(self, dataset: str) -> pb.Dataset:
        """Raises NotFound DATASET_UNKNOWN, Conflict DATASET_DELETED."""
        request = pb.GetDatasetRequest(dataset=reference(dataset))
        return call(self._stub.GetDataset, request, timeout_s=CALL_S, retries_max=3).dataset

    def list(self, name: str = "") -> Iterator[pb.Dataset]:
        """All of a name, or of all names, newest first in each."""
        request = pb.ListDatasetsRequest(name=name)
        for page in pages(self._stub.ListDatasets, request, timeout_s=CALL_S, retries_max=3):
            yield from page.datasets

    def tags(self, name: str) -> Sequence[pb.DatasetTag]:
        request = pb.ListDatasetTagsRequest(name=name)
        return call(self._stub.ListDatasetTags, request, timeout_s=CALL_S, retries_max=3).tags

    def tag(self, name: str, number: int, tag: str) -> pb.DatasetTag:
        """Moves the tag from where it stands now; raises Conflict TAG_MOVED when it moved since."""
        seen = {each.tag: each.generation for each in self.tags(name)}
        request = pb.SetDatasetTagRequest(
            request_id=str(uuid.uuid4()),
            name=name,
            tag=tag,
            number=number,
            generation_expected=seen.get(tag, 0),
        )
        return call(self._stub.SetDatasetTag, request, timeout_s=CALL_S, retries_max=3).tag

    def delete(self, name: str, number: int) -> None:
        """Raises Conflict DATASET_TAGGED while a tag points to it."""
        request = pb.DeleteDatasetRequest(request_id=str(uuid.uuid4()), name=name, number=number)
        call(self._stub.DeleteDataset, request, timeout_s=CALL_S, retries_max=3)

    def diff(
        self, base: str, other: str, *, said: Callable[[str], None] = lambda _: None
    ) -> pb.DatasetDiff:
        """What changed from the one to the other; `said` hears each step."""
        request = pb.DiffDatasetsRequest(base=reference(base), other=reference(other))
        for part in _answers(self._stub.DiffDatasets, request):
            if part.HasField("diff"):
                return part.diff
            said(part.progress.step)
        raise AssertionError("the stream ends with the diff or an error")

    def erase(self, column: str, value: str, *, request_id: str | None = None) -> er.Erasure:
        """Takes an entity out of all that is kept; the report names what was trained on it."""
        request = er.EraseEntityRequest(
            request_id=request_id or str(uuid.uuid4()), column=column, value=value
        )
        return call(self._stub.EraseEntity, request, timeout_s=WORK_S, retries_max=3).erasure

    def erasures(self) -> Iterator[er.Erasure]:
        """All that were begun."""
        request = er.ListErasuresRequest()
        for page in pages(self._stub.ListErasures, request, timeout_s=CALL_S, retries_max=3):
            yield from page.erasures

    def search(self, query: str, kinds: Sequence[str] = ()) -> Iterator[cat.CatalogueEntry]:
        """What data there are, by words: the best match first."""
        request = cat.SearchCatalogueRequest(query=query, kinds=kinds)
        for page in pages(self._stub.SearchCatalogue, request, timeout_s=CALL_S, retries_max=3):
            yield from page.entries

    def search_text(
        self, stream: str, column: str, query: str, *, limit: int = 10
    ) -> ts.SearchTextResponse:
        """The texts of a column (`index: text`) that read most like the query, as `matches`.

        Not `complete` while the index is being built: ask again for what is not in it yet.
        """
        request = ts.SearchTextRequest(stream=stream, column=column, query=query, limit=limit)
        return call(self._stub.SearchText, request, timeout_s=CALL_S, retries_max=3)

    def read(self, dataset: str, columns: Sequence[str] = ()) -> Rows:
        """The dataset's rows; no column named takes all."""
        request = pb.ReadRowsRequest(dataset=reference(dataset), columns=columns)
        return self._rows(request)

    def read_stream(
        self,
        stream: str,
        columns: Sequence[str] = (),
        *,
        delta_version: int | None = None,
        known_until_us: int = 0,
        filter: str = "",
    ) -> Rows:
        """A stream's rows as they were at a version of its table, or as known at a time."""
        rows = pb.StreamRows(
            stream=stream,
            delta_version=delta_version,
            known_until_us=known_until_us,
            filter=filter,
        )
        return self._rows(pb.ReadRowsRequest(stream=rows, columns=columns))

    def _rows(self, request: pb.ReadRowsRequest) -> Rows:
        return Rows(part.arrow_ipc for part in _answers(self._stub.ReadRows, request))


def _answers(method: Callable[..., Iterable[Any]], request: Any) -> Iterator[Any]:
    """The messages of a stream; errors come back as the error tree."""
    try:
        yield from method(request, timeout=WORK_S)
    except grpc.RpcError as err:
        raise error_of(err) from err

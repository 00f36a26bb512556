# SPDX-License-Identifier: Apache-2.0
"""The gRPC door of DatasetService."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import grpc

from headrace.errors import HeadraceError, Invalid
from headrace.ingest.v1 import (
    catalogue_pb2,
    erasures_pb2,
    ingest_service_pb2_grpc,
    text_search_pb2,
)
from headrace.ingest.v1 import datasets_pb2 as pb
from headrace_ingest.adapters import conversions
from headrace_ingest.adapters import dataset_conversions as wire
from headrace_ingest.adapters.erasure_conversions import to_erasure
from headrace_ingest.domain.erasures import Erasure
from headrace_ingest.handlers import datasets
from headrace_ingest.handlers.catalogue import SearchCatalogue, search_catalogue
from headrace_ingest.handlers.counts import list_stream_counts
from headrace_ingest.handlers.erasures import EraseEntity, Eraser
from headrace_ingest.handlers.noted_erasures import list_erasures
from headrace_ingest.handlers.stopped_streams import Stop
from headrace_ingest.handlers.text_search import SearchText, TextKeeper, search_text
from headrace_ingest.ports.archive import Archive, TopicCatalogue
from headrace_ingest.ports.datasets import DatasetBook, Rows, RowStore
from headrace_ingest.ports.definitions import ContractBook
from headrace_ingest.ports.search import CatalogueIndex
from headrace_kit.clock import Clock
from headrace_kit.grpc_server import remaining_s

# As long as a stream may last, see grpc_streams.
WORK_S_MAX = 300.0


class DatasetApi(ingest_service_pb2_grpc.DatasetServiceServicer):
    """Answers what the archive holds, and names parts of it."""

    def __init__(
        self,
        *,
        contracts: ContractBook,
        catalogue: TopicCatalogue,
        archive: Archive,
        stops: Callable[[], Mapping[str, Stop]],
        waits: Callable[[], HeadraceError | None],
        book: DatasetBook,
        rows: RowStore,
        clock: Clock,
        eraser: Eraser,
        catalogue_index: CatalogueIndex,
        texts: TextKeeper,
    ) -> None:
        self._contracts, self._catalogue, self._archive = contracts, catalogue, archive
        self._stops, self._waits = stops, waits
        self._book, self._rows, self._clock = book, rows, clock
        self._eraser, self._catalogue_index = eraser, catalogue_index
        self._texts = texts

    def ListStreamCounts(self, request: Any, context: grpc.ServicerContext) -> Any:
        counts = list_stream_counts(
            contracts=self._contracts,
            catalogue=self._catalogue,
            archive=self._archive,
            stops=self._stops(),
            waits=self._waits(),
        )
        return conversions.to_counts_response(counts)

    def CreateDataset(self, request: Any, context: grpc.ServicerContext) -> Any:
        manifest = datasets.create_dataset(
            wire.to_create(request),
            request.request_id,
            contracts=self._contracts,
            book=self._book,
            rows=self._rows,
            clock=self._clock,
            timeout_s=remaining_s(context, cap_s=WORK_S_MAX),
        )
        return pb.CreateDatasetResponse(dataset=wire.to_dataset(manifest))

    def GetDataset(self, request: Any, context: grpc.ServicerContext) -> Any:
        found = datasets.get_dataset(wire.to_reference(request.dataset), book=self._book)
        return pb.GetDatasetResponse(dataset=wire.to_dataset(*found))

    def ListDatasets(self, request: Any, context: grpc.ServicerContext) -> Any:
        return wire.to_page(*datasets.list_datasets(wire.to_list(request), book=self._book))

    def SetDatasetTag(self, request: Any, context: grpc.ServicerContext) -> Any:
        tag = datasets.set_dataset_tag(
            wire.to_set_tag(request), request.request_id, book=self._book, clock=self._clock
        )
        return pb.SetDatasetTagResponse(tag=wire.to_tag(tag))

    def ListDatasetTags(self, request: Any, context: grpc.ServicerContext) -> Any:
        tags = datasets.list_dataset_tags(request.name, book=self._book)
        return pb.ListDatasetTagsResponse(tags=[wire.to_tag(tag) for tag in tags])

    def DeleteDataset(self, request: Any, context: grpc.ServicerContext) -> Any:
        datasets.delete_dataset(request.name, request.number, request.request_id, book=self._book)
        return pb.DeleteDatasetResponse()

    def DiffDatasets(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        parts = datasets.diff_datasets(
            wire.to_reference(request.base),
            wire.to_reference(request.other),
            book=self._book,
            rows=self._rows,
            timeout_s=remaining_s(context, cap_s=WORK_S_MAX),
        )
        return map(wire.to_diff_response, parts)

    def ReadRows(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        rows = self._read(request, remaining_s(context, cap_s=WORK_S_MAX))
        return (pb.ReadRowsResponse(arrow_ipc=piece) for piece in rows)

    def EraseEntity(self, request: Any, context: grpc.ServicerContext) -> Any:
        erasure = self._eraser.erase(
            EraseEntity(request.column, request.value),
            request.request_id,
            timeout_s=remaining_s(context, cap_s=WORK_S_MAX),
        )
        return erasures_pb2.EraseEntityResponse(erasure=self._to_erasure(erasure))

    def ListErasures(self, request: Any, context: grpc.ServicerContext) -> Any:
        page, unreadable, token = list_erasures(
            request.page_size, request.page_token, erasures=self._eraser.erasures
        )
        told = [self._to_erasure(each) for each in self._eraser.with_later_versions(page)]
        told += [erasures_pb2.Erasure(id=each, unreadable=True) for each in unreadable]
        told.sort(key=lambda each: each.id)
        return erasures_pb2.ListErasuresResponse(erasures=told, next_page_token=token)

    def _to_erasure(self, erasure: Erasure) -> erasures_pb2.Erasure:
        return to_erasure(erasure, self._eraser.views_taken_back(erasure))

    def SearchCatalogue(self, request: Any, context: grpc.ServicerContext) -> Any:
        query = SearchCatalogue(
            request.query, tuple(request.kinds), request.page_size, request.page_token
        )
        page, token = search_catalogue(query, index=self._catalogue_index)
        entries = [catalogue_pb2.CatalogueEntry(**asdict(entry)) for entry in page]
        return catalogue_pb2.SearchCatalogueResponse(entries=entries, next_page_token=token)

    def SearchText(self, request: Any, context: grpc.ServicerContext) -> Any:
        asked = SearchText(request.stream, request.column, request.query, request.limit)
        found = search_text(asked, texts=self._texts, timeout_s=remaining_s(context))
        matches = [text_search_pb2.TextMatch(**asdict(match)) for match in found.matches]
        return text_search_pb2.SearchTextResponse(matches=matches, complete=found.complete)

    def _read(self, request: Any, timeout_s: float) -> Rows:
        columns = tuple(request.columns)
        if request.WhichOneof("rows") == "dataset":
            return datasets.read_dataset(
                wire.to_reference(request.dataset),
                columns,
                book=self._book,
                rows=self._rows,
                timeout_s=timeout_s,
            )
        if request.WhichOneof("rows") == "stream":
            return datasets.read_stream(
                wire.to_read_stream(request.stream),
                columns,
                contracts=self._contracts,
                rows=self._rows,
                timeout_s=timeout_s,
            )
        raise Invalid("BAD_REQUEST", field="rows", problem="name a dataset or a stream")

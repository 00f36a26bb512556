# SPDX-License-Identifier: Apache-2.0
"""Between the protos of datasets and the domain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.ingest.v1 import datasets_pb2 as pb
from headrace_ingest.domain.datasets import (
    ColumnStatistics,
    Diff,
    Manifest,
    Reference,
    Tag,
)
from headrace_ingest.handlers.datasets import (
    CreateDataset,
    ListDatasets,
    Progress,
    SetDatasetTag,
)
from headrace_ingest.handlers.selecting import ReadStream


def to_create(request: pb.CreateDatasetRequest) -> CreateDataset:
    return CreateDataset(
        name=request.name,
        description=request.description,
        stream=request.stream,
        view=request.view,
        filter=request.filter,
        delta_version=request.delta_version if request.HasField("delta_version") else None,
        known_until_us=request.known_until_us,
    )


def to_list(request: pb.ListDatasetsRequest) -> ListDatasets:
    return ListDatasets(request.name, request.page_size, request.page_token)


def to_set_tag(request: pb.SetDatasetTagRequest) -> SetDatasetTag:
    return SetDatasetTag(request.name, request.tag, request.number, request.generation_expected)


def to_reference(message: pb.DatasetReference) -> Reference:
    return Reference(message.name, message.number, message.tag)


def to_read_stream(message: pb.StreamRows) -> ReadStream:
    return ReadStream(
        stream=message.stream,
        delta_version=message.delta_version if message.HasField("delta_version") else None,
        known_until_us=message.known_until_us,
        filter=message.filter,
    )


def to_dataset(manifest: Manifest, tags: Sequence[Tag] = ()) -> pb.Dataset:
    origin, selection = manifest.origin, manifest.selection
    return pb.Dataset(
        name=manifest.name,
        number=manifest.number,
        description=manifest.description,
        stream=selection.stream,
        view=origin.view,
        view_version=origin.view_version,
        contract_version=origin.contract_version,
        delta_version=selection.delta_version,
        known_until_us=selection.known_until_us,
        filter=selection.filter,
        rows=manifest.content.rows - manifest.rows_erased,
        rows_erased=manifest.rows_erased,
        digest=manifest.content.digest,
        columns=[_to_statistics(each) for each in manifest.content.columns],
        created_at_us=manifest.created_at_us,
        tags=[tag.tag for tag in tags],
    )


def _to_statistics(statistics: ColumnStatistics) -> pb.ColumnStatistics:
    return pb.ColumnStatistics(
        column=statistics.column,
        type=statistics.type,
        nulls=statistics.nulls,
        distinct=statistics.distinct,
        min=statistics.min,
        max=statistics.max,
        mean=statistics.mean,
        quantiles=statistics.quantiles,
        edges=statistics.edges,
        values=statistics.values,
        counts=statistics.counts,
    )


def to_page(
    page: Iterable[tuple[Manifest, Sequence[Tag]]], next_page_token: str
) -> pb.ListDatasetsResponse:
    datasets = [to_dataset(*each) for each in page]
    return pb.ListDatasetsResponse(datasets=datasets, next_page_token=next_page_token)


def to_tag(tag: Tag) -> pb.DatasetTag:
    return pb.DatasetTag(
        name=tag.name,
        tag=tag.tag,
        number=tag.number,
        generation=tag.generation,
        moved_at_us=tag.moved_at_us,
    )


def to_diff_response(part: Progress | Diff) -> pb.DiffDatasetsResponse:
    if isinstance(part, Progress):
        progress = pb.DiffProgress(step=part.step, steps_done=part.done, steps=part.of)
        return pb.DiffDatasetsResponse(progress=progress)
    rows = part.rows
    diff = pb.DatasetDiff(
        base=to_dataset(part.base),
        other=to_dataset(part.other),
        rows_added=rows.added,
        rows_removed=rows.removed,
        rows_changed=rows.changed,
        added_ids=rows.added_ids,
        removed_ids=rows.removed_ids,
        changed_ids=rows.changed_ids,
        columns=[
            pb.ColumnChange(
                column=each.column, type_before=each.type_before, type_after=each.type_after
            )
            for each in part.columns
        ],
        shifts=[
            pb.ColumnShift(column=each.column, psi=each.psi, p_value=each.p_value)
            for each in part.shifts
        ],
    )
    return pb.DiffDatasetsResponse(diff=diff)

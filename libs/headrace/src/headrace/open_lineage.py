# SPDX-License-Identifier: Apache-2.0
"""OpenLineage run events of versions, by its specification 2-0-2 (openlineage.io/spec/2-0-2).

A version is the output of one run of one job: `train.<recipe or graph>` or `register.<model>`. The
registry knows when a version was registered, not when its run began: both events bear that time.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version as installed
from typing import Any

from headrace.model_reference import parse_reference
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.topics import RAW

SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/"
VERSION_FACET = "https://openlineage.io/spec/facets/1-0-0/DatasetVersionDatasetFacet.json"
PRODUCER = f"urn:headrace:{installed('headrace')}"
NAMESPACE = "headrace"
# Ids of runs that are no UUIDs, and of what was registered without a run, become name-based ones.
RUN_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:headrace:run")


def run_events(lineage: pb.VersionLineage) -> Iterator[dict[str, Any]]:
    """START and COMPLETE of the run that made the version."""
    sources = {kind: [each for each in lineage.sources if each.kind == kind] for kind in _INPUTS}
    inputs = [_dataset(f"{kind}/{each.name}", each.at or each.name)
              for kind, found in sources.items() for each in found]  # fmt: skip
    _add_offsets(inputs, lineage)
    inputs += [_component(each.name) for each in lineage.sources if each.kind == "component"]
    output = _dataset(f"model/{lineage.model}", str(lineage.version))
    for event_type, outputs in (("START", []), ("COMPLETE", [output])):
        yield {
            "eventType": event_type,
            "eventTime": _moment(lineage.registered_at_us),
            "run": {"runId": _run_id(lineage), "facets": {"headrace_sources": _sources(lineage)}},
            "job": {"namespace": NAMESPACE, "name": _job(lineage)},
            "inputs": inputs,
            "outputs": outputs,
            "producer": PRODUCER,
            "schemaURL": f"{SPEC}RunEvent",
        }


_INPUTS = ("stream", "view", "training-set")


def _dataset(name: str, version: str) -> dict[str, Any]:
    facet = {"_producer": PRODUCER, "_schemaURL": VERSION_FACET, "datasetVersion": version}
    return {"namespace": NAMESPACE, "name": name, "facets": {"version": facet}}


def _add_offsets(inputs: list[dict[str, Any]], lineage: pb.VersionLineage) -> None:
    """A facet of our own for each stream: where its records lay in its raw topic."""
    for each in inputs:
        stream = each["name"].removeprefix("stream/")
        read = [one for one in lineage.read_offsets if f"stream/{one.stream}" == each["name"]]
        if read:
            each["facets"]["headrace_rawOffsets"] = {
                "_producer": PRODUCER,
                "_schemaURL": f"{SPEC}DatasetFacet",
                "topic": RAW.of(stream),
                "partitions": [
                    {"partition": one.partition, "first": one.first, "last": one.last}
                    for one in read
                ],
            }


def _component(name: str) -> dict[str, Any]:
    """The version of a model that is a step of the graph."""
    reference = parse_reference(name)
    return _dataset(f"model/{reference.model}", str(reference.version))


def _sources(lineage: pb.VersionLineage) -> dict[str, Any]:
    """All that the version came of, as the registry tells it: a facet of our own."""
    told = [{"kind": each.kind, "name": each.name, "at": each.at} for each in lineage.sources]
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}RunFacet", "sources": told}


def _job(lineage: pb.VersionLineage) -> str:
    made_by = _named(lineage, "recipe") or _named(lineage, "graph")
    return f"train.{made_by}" if made_by else f"register.{lineage.model}"


def _run_id(lineage: pb.VersionLineage) -> str:
    run_id = _named(lineage, "run") or f"models:/{lineage.model}/{lineage.version}"
    try:
        return str(uuid.UUID(run_id))
    except ValueError:
        return str(uuid.uuid5(RUN_IDS, run_id))


def _named(lineage: pb.VersionLineage, kind: str) -> str:
    return next((each.name for each in lineage.sources if each.kind == kind), "")


def _moment(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="microseconds")

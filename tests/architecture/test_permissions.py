# SPDX-License-Identifier: Apache-2.0
"""What a caller needs for each method: a new one is shut until somebody adds it here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

from google.protobuf.descriptor import ServiceDescriptor

import headrace
from headrace.errors import Denied
from headrace.oip import grpc_predict_v2_pb2 as oip
from headrace.tokens import issue_token
from headrace_feature.app import ACTIONS as FEATURE
from headrace_inference.app import ACTIONS as INFERENCE
from headrace_ingest.app import ACTIONS as INGEST
from headrace_kit.auth import Guard

READ_OF = {
    "ArtifactService": ("DownloadArtifact",),
    "DatasetService": (
        "DiffDatasets",
        "GetDataset",
        "ListDatasetTags",
        "ListDatasets",
        "ListErasures",
        "ListStreamCounts",
        "ReadRows",
        "SearchCatalogue",
        "SearchText",
    ),
    "DeadLetterService": (
        "GetDeadLetter",
        "ListDeadLetters",
    ),
    "FeatureService": (
        "GetFreshness",
        "GetHistoricalFeatures",
        "GetOnlineFeatures",
        "ListViews",
    ),
    "LabelService": (
        "GetAgreement",
        "ListTasks",
        "LookUpLabels",
    ),
    "MonitorService": (
        "GetLoop",
        "GetQuality",
        "ListIncidents",
    ),
    "RegistryService": (
        "GetLineage",
        "ListAliasMoves",
        "ListAliases",
        "ListChanges",
        "ListDefinitions",
        "ListModels",
        "ListRollouts",
        "ListVersions",
        "ResolveModel",
    ),
    "TrainerService": (
        "GetRun",
        "ListRuns",
    ),
}
# By action; every other method needs all permissions.
OPENED = {
    "publish": {"IngestService/Publish", "IngestService/PublishStream"},
    "label": {"LabelService/ClaimTask", "LabelService/SubmitLabel", "LabelService/SkipTask"},
    "peer": {
        f"ObservationService/{name}"
        for name in ("GetObservations", "StreamObservations", "NoteServed")
    },
    "predict": {
        "ClaimService/StoreClaim",
        "ClaimService/GetClaim",
        *(f"GRPCInferenceService/{name}"
        for name in (
            "ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata",
            "ModelInfer", "ModelStreamInfer", "ModelConfig", "ModelStatistics", "RepositoryIndex",
        )),
    },
    "read": {f"{service}/{name}" for service, names in READ_OF.items() for name in names},
}  # fmt: skip


ACTIONS = {**FEATURE, **INGEST, **INFERENCE}


def services() -> list[ServiceDescriptor]:
    """Of all contracts, the foreign one among them."""
    modules = [oip]
    for found in walk_packages(headrace.__path__, "headrace."):
        if found.name.endswith("_service_pb2"):
            modules.append(import_module(found.name))
    return [each for module in modules for each in module.DESCRIPTOR.services_by_name.values()]


def paths() -> dict[str, str]:
    """By full path, what a method is called for short."""
    return {
        f"/{service.full_name}/{method.name}": f"{service.name}/{method.name}"
        for service in services()
        for method in service.methods
    }


def admits(guard: Guard, path: str, token: str) -> bool:
    try:
        guard.admit(path, [("authorization", f"Bearer {token}")])
    except Denied:
        return False
    return True


def test_methods_are_open_to_those_who_are_listed() -> None:
    guard = Guard("tests", None, actions=ACTIONS)
    opened: dict[str, set[str]] = {}
    for path, name in paths().items():
        opened.setdefault(guard.action_of(path), set()).add(name)
    opened.pop("*")

    assert OPENED == opened


def test_actions_are_of_methods_that_are_there() -> None:
    assert set(ACTIONS) <= set(paths())


def test_token_that_feature_workers_show_opens_only_what_they_ask_each_other(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tokens.json"
    token = issue_token(file, "feature-workers", ["peer"])
    guard = Guard("tests", file, actions=ACTIONS)

    opened = {name for path, name in paths().items() if admits(guard, path, token)}

    assert OPENED["peer"] == opened


def test_token_of_a_reader_does_not_open_what_feature_workers_ask_each_other(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tokens.json"
    token = issue_token(file, "analyst", ["read"])
    guard = Guard("tests", file, actions=ACTIONS)

    opened = {name for path, name in paths().items() if admits(guard, path, token)}

    assert OPENED["read"] == opened

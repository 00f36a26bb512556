# SPDX-License-Identifier: Apache-2.0
"""MLflow's registry over HTTP, to read: its clients list models and versions, resolve aliases and
fetch files (`models:/NAME@ALIAS`) as they do from a server of MLflow.

Paths and fields are those of its REST API 2.0 (https://mlflow.org/docs/latest/rest-api.html). A
version's folder has one file. All that would write is refused, as is what we have no word for:
stages, filters but a model's name, runs. What it refuses it tells in MLflow's error codes, with
their HTTP statuses (mlflow.exceptions).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import SEEK_END
from typing import Any
from urllib.parse import parse_qs

from headrace.errors import (
    Busy,
    Corrupt,
    Denied,
    HeadraceError,
    Invalid,
    NotFound,
    Unavailable,
)
from headrace_kit.auth import Guard, work_for
from headrace_kit.error_status import retry_after_s
from headrace_kit.http_server import HttpError, HttpRequest, HttpResponse, Pieces, Respond
from headrace_registry.domain.alias import Alias
from headrace_registry.domain.gate import GateState
from headrace_registry.domain.name import check_digest
from headrace_registry.domain.page import MODELS, ListByName, ListVersions, Model, aliases_of
from headrace_registry.domain.version import ModelVersion
from headrace_registry.handlers.artifacts import downloaded
from headrace_registry.handlers.queries import (
    list_aliases,
    list_models,
    list_versions,
    resolve_model,
)
from headrace_registry.ports import ArtifactStore, RegistryStore, Spool

API = "/api/2.0/mlflow"
FILES_API = "/api/2.0/mlflow-artifacts"
ARTIFACTS = f"{FILES_API}/artifacts"
# The parts of its API of which something is answered, and what is said of all others.
PARTS = (f"{API}/registered-models/", f"{API}/model-versions/", f"{FILES_API}/")
NO_PART = (
    "experiments, runs and the like are no part of this: of MLflow's API registered models and "
    "their versions can be read (what is covered: services/registry/README.md)"
)
FILE = "model.onnx"
FILE_PATH = re.compile(rf"{ARTIFACTS}/([0-9a-f]{{64}})/{re.escape(FILE)}")
# The RPC of each decides who may ask: the same people by either door.
REGISTRY = "/headrace.registry.v1.RegistryService/"
DOWNLOAD = "/headrace.registry.v1.ArtifactService/DownloadArtifact"
# Each holds a file on the disk and a thread, until its caller has read it.
DOWNLOADS_MAX = 4
PIECE_BYTES = 256 * 1024
OF_NAME = re.compile(r"""\s*name\s*=\s*(?:'([^']*)'|"([^"]*)")\s*""")
# Its clients ask for all models in these words: we know no prompts.
NO_FILTER = ("", "tag.`mlflow.prompt.is_prompt` != 'true'")
US_PER_MS = 1_000
Query = Mapping[str, str]
NO_STAGE = "none"
Answer = Callable[[Query], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Route:
    """The RPC that says who may ask, and what answers; some clients ask by POST."""

    rpc: str
    answer: Answer
    by_post: bool = False


class MlflowApi:
    """`admit` says who answers a request of the HTTP server."""

    def __init__(
        self, *, store: RegistryStore, artifacts: ArtifactStore, spool: Spool, guard: Guard
    ) -> None:
        self._store, self._artifacts, self._spool, self._guard = store, artifacts, spool, guard
        self._downloads = threading.BoundedSemaphore(DOWNLOADS_MAX)
        self._routes = {
            f"{API}/registered-models/search": Route(
                f"{REGISTRY}ListModels", self._models, by_post=True
            ),
            f"{API}/registered-models/get": Route(f"{REGISTRY}ListModels", self._model),
            f"{API}/registered-models/get-latest-versions": Route(
                f"{REGISTRY}ListVersions", self._latest, by_post=True
            ),
            f"{API}/registered-models/alias": Route(f"{REGISTRY}ResolveModel", self._by_alias),
            f"{API}/model-versions/get": Route(f"{REGISTRY}ResolveModel", self._by_number),
            f"{API}/model-versions/search": Route(
                f"{REGISTRY}ListVersions", self._versions, by_post=True
            ),
            f"{API}/model-versions/get-download-uri": Route(
                f"{REGISTRY}ResolveModel", self._download_uri
            ),
            ARTIFACTS: Route(DOWNLOAD, self._files),
        }

    def admit(self, method: str, path: str, headers: Mapping[str, str]) -> Respond:
        """What answers the request. Raises HttpError 401, 403, 404 and 405."""
        file, route = FILE_PATH.fullmatch(path), self._routes.get(path)
        if not path.startswith((f"{API}/", f"{FILES_API}/")):
            raise HttpError(404, "no such path")
        try:
            work_for(self._guard.admit(route.rpc if route else DOWNLOAD, headers.items()))
        except Denied as err:
            raise _denied(err) from err
        if method == "GET" and file is not None:
            return partial(_told, lambda asked: self._file(file[1], asked))
        if route is not None and (method == "GET" or (method == "POST" and route.by_post)):
            answer = route.answer
            return partial(_told, lambda asked: _json(answer(_query(asked))))
        if not path.startswith(PARTS):
            raise _refusal(404, "ENDPOINT_NOT_FOUND", NO_PART)
        if method == "GET":
            raise _refusal(404, "ENDPOINT_NOT_FOUND", "this is not offered here")
        raise _refusal(405, "NOT_IMPLEMENTED", "models are read here: headrace models writes them")

    def _models(self, query: Query) -> dict[str, Any]:
        if query.get("filter", "") not in NO_FILTER:
            raise Invalid("BAD_REQUEST", field="filter", problem="is not offered here")
        asked = ListByName(MODELS, _size(query), query.get("page_token", ""))
        page = list_models(asked, store=self._store)
        models = [self._registered_model(each) for each in page.models]
        return {"registered_models": models, "next_page_token": page.next_page_token}

    def _model(self, query: Query) -> dict[str, Any]:
        name = query.get("name", "")
        newest, aliases = self._newest(name), self._aliases(name)
        model = Model(name, newest[0].version if newest else 0, aliases)
        return {"registered_model": self._registered_model(model)}

    def _latest(self, query: Query) -> dict[str, Any]:
        """No version is in any of MLflow's stages."""
        newest = self._newest(query.get("name", ""))
        stages = query.get("stages", NO_STAGE).casefold().split(",")
        return {"model_versions": self._told_versions(newest if NO_STAGE in stages else ())}

    def _versions(self, query: Query) -> dict[str, Any]:
        named = OF_NAME.fullmatch(query.get("filter", ""))
        if named is None:
            raise Invalid("BAD_REQUEST", field="filter", problem="must be name = 'MODEL'")
        asked = ListVersions(named[1] or named[2] or "", _size(query), query.get("page_token", ""))
        page = list_versions(asked, store=self._store)
        versions = self._told_versions(page.versions)
        return {"model_versions": versions, "next_page_token": page.next_page_token}

    def _by_alias(self, query: Query) -> dict[str, Any]:
        return self._version(f"models:/{query.get('name', '')}@{query.get('alias', '')}")

    def _by_number(self, query: Query) -> dict[str, Any]:
        return self._version(_reference(query))

    def _version(self, reference: str) -> dict[str, Any]:
        version, _ = resolve_model(reference, store=self._store)
        return {"model_version": self._told_versions([version])[0]}

    def _download_uri(self, query: Query) -> dict[str, Any]:
        version, _ = resolve_model(_reference(query), store=self._store)
        return {"artifact_uri": _source(version)}

    def _files(self, query: Query) -> dict[str, Any]:
        """The one file of a version's folder; none below it."""
        digest, _, file = query.get("path", "").partition("/")
        check_digest(digest)
        return {"files": [] if file else [{"path": FILE, "is_dir": False}]}

    def _file(self, digest: str, asked: HttpRequest) -> HttpResponse:
        if not self._downloads.acquire(blocking=False):
            raise Busy("QUEUE_FULL", downloads_max=DOWNLOADS_MAX)
        asked.until_sent.callback(self._downloads.release)
        verified = downloaded(digest, artifacts=self._artifacts, spool=self._spool)
        file = asked.until_sent.enter_context(verified)
        size_bytes = file.seek(0, SEEK_END)
        file.seek(0)
        pieces = Pieces(size_bytes, iter(partial(file.read, PIECE_BYTES), b""))
        return HttpResponse(pieces, content_type="application/octet-stream")

    def _registered_model(self, model: Model) -> dict[str, Any]:
        newest = self._newest(model.name) if model.newest_version else ()
        return {
            "name": model.name,
            **self._times(newest),
            "latest_versions": [_told_version(each, model.aliases) for each in newest],
            "aliases": [
                {"alias": each.alias, "version": str(each.version)} for each in model.aliases
            ],
        }

    def _times(self, newest: Sequence[ModelVersion]) -> dict[str, int]:
        """Those of the first version and of the newest; a model without one has none."""
        if not newest:
            return {}
        (last,) = newest
        first = last
        if last.version > 1:
            first, _ = resolve_model(f"models:/{last.model}/1", store=self._store)
        return {
            "creation_timestamp": first.registered_at_us // US_PER_MS,
            "last_updated_timestamp": last.registered_at_us // US_PER_MS,
        }

    def _newest(self, name: str) -> tuple[ModelVersion, ...]:
        return list_versions(ListVersions(name, 1, ""), store=self._store).versions

    def _aliases(self, name: str) -> tuple[Alias, ...]:
        return list_aliases(name, ListByName(aliases_of(name), 0, ""), store=self._store)[0]

    def _told_versions(self, versions: Iterable[ModelVersion]) -> list[dict[str, Any]]:
        found = list(versions)
        aliases = self._aliases(found[0].model) if found else ()
        return [_told_version(each, aliases) for each in found]


def _told_version(version: ModelVersion, aliases: Iterable[Alias]) -> dict[str, Any]:
    at_ms = version.registered_at_us // US_PER_MS
    retracted = version.gate.state is GateState.RETRACTED
    return {
        "name": version.model,
        "version": str(version.version),
        "creation_timestamp": at_ms,
        "last_updated_timestamp": at_ms,
        "current_stage": "None",
        "description": version.description.card,
        "source": _source(version),
        "run_id": version.run_id,
        # Of MLflow's words, the one for a version without a file.
        "status": "FAILED_REGISTRATION" if retracted else "READY",
        "status_message": version.gate.evidence[-1] if retracted else "",
        "tags": [
            {"key": key, "value": value} for key, value in sorted(version.description.tags.items())
        ],
        "aliases": [each.alias for each in aliases if each.version == version.version],
    }


def _source(version: ModelVersion) -> str:
    return f"mlflow-artifacts:/{version.digest}"


def _reference(query: Query) -> str:
    return f"models:/{query.get('name', '')}/{query.get('version', '')}"


def _size(query: Query) -> int:
    """Larger pages than ours are cut, as the token of the next one tells."""
    text = query.get("max_results", "0")
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise Invalid("BAD_REQUEST", field="max_results", problem="is no number")
    return int(text)


def _json(answer: dict[str, Any]) -> HttpResponse:
    return HttpResponse(json.dumps(answer).encode())


def _query(asked: HttpRequest) -> Query:
    """The fields of the request, of its query or of the JSON that a POST has; several values of one
    are parted by commas.
    """
    if asked.method == "GET":
        given = parse_qs(asked.query)
        return {name: ",".join(values) for name, values in given.items()}
    try:
        fields = json.loads(asked.body or b"{}")
    except (ValueError, RecursionError) as err:
        raise Invalid("BAD_REQUEST", problem="the body is no JSON") from err
    if not isinstance(fields, dict):
        raise Invalid("BAD_REQUEST", problem="the body is no JSON object")
    given = {name: each if isinstance(each, list) else [each] for name, each in fields.items()}
    return {
        name: ",".join(map(str, values))
        for name, values in given.items()
        if values and all(isinstance(value, str | int) for value in values)
    }


def _told(respond: Respond, asked: HttpRequest) -> HttpResponse:
    """What its clients can tell apart, in their words; the server tells what is a bug."""
    try:
        return respond(asked)
    except HeadraceError as err:
        told = next((told for branch, told in _TOLD.items() if isinstance(err, branch)), None)
        if told is None:
            raise
        return _refused(*told, str(err), retry_delay_s=retry_after_s(err))


_TOLD: dict[type[HeadraceError], tuple[int, str]] = {
    NotFound: (404, "RESOURCE_DOES_NOT_EXIST"),
    Invalid: (400, "INVALID_PARAMETER_VALUE"),
    Busy: (429, "REQUEST_LIMIT_EXCEEDED"),
    Unavailable: (503, "TEMPORARILY_UNAVAILABLE"),
    Corrupt: (500, "DATA_LOSS"),
}


def _denied(error: Denied) -> HttpError:
    if error.reason == "TOKEN_UNKNOWN":
        return _refusal(401, "UNAUTHENTICATED", str(error), {"WWW-Authenticate": "Bearer"})
    return _refusal(403, "PERMISSION_DENIED", str(error))


def _refusal(
    status: int, code: str, problem: str, headers: Mapping[str, str] | None = None
) -> HttpError:
    return HttpError(status, problem, told=_refused(status, code, problem, headers))


def _refused(
    status: int,
    code: str,
    problem: str,
    headers: Mapping[str, str] | None = None,
    *,
    retry_delay_s: float | None = None,
) -> HttpResponse:
    body = json.dumps({"error_code": code, "message": problem}).encode()
    again = {} if retry_delay_s is None else {"Retry-After": str(max(1, round(retry_delay_s)))}
    return HttpResponse(body, status=status, headers={**(headers or {}), **again})

# SPDX-License-Identifier: Apache-2.0
"""What MLflow's clients ask is answered as its server answers; nothing is written this way."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from headrace.errors import Busy, Unavailable
from headrace.tokens import issue_token
from headrace_kit.auth import Guard
from headrace_kit.http_server import HttpError, HttpRequest, HttpResponse, Pieces
from headrace_registry.adapters import mlflow_api
from headrace_registry.adapters.mlflow_api import (
    API,
    ARTIFACTS,
    DOWNLOADS_MAX,
    FILES_API,
    MlflowApi,
)
from headrace_registry.domain.version import RetractVersion
from headrace_registry.handlers.versions import retract_version
from headrace_registry.testing import DIGEST, MODEL, ONNX, TENSORS_ENDPOINT, a_file

UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
FILE = f"{ARTIFACTS}/{DIGEST}/model.onnx"


def sent(response: HttpResponse) -> bytes:
    """The body as it goes out."""
    body = response.body
    return b"".join(body.read) if isinstance(body, Pieces) else body


class Door:
    """Asks as the HTTP server does."""

    def __init__(self, registry: Any, tokens_file: Path | None = None) -> None:
        self._api = MlflowApi(
            store=registry.store,
            artifacts=registry.artifacts,
            spool=a_file,
            guard=Guard("registry", tokens_file),
        )

    def ask(
        self, path: str, query: dict[str, str], method: str = "GET", **headers: Any
    ) -> HttpResponse:
        with ExitStack() as until_sent:
            response = self.ask_unread(until_sent, path, query, method, **headers)
            return replace(response, body=sent(response))

    def ask_unread(
        self,
        until_sent: ExitStack,
        path: str,
        query: dict[str, str],
        method: str = "GET",
        *,
        body: bytes = b"",
        **headers: str,
    ) -> HttpResponse:
        respond = self._api.admit(method, path, headers)
        return respond(
            HttpRequest(
                method,
                path,
                headers,
                body,
                lambda: True,
                query=urlencode(query, doseq=True),
                until_sent=until_sent,
            )
        )

    def post(self, path: str, **fields: Any) -> Any:
        asked = json.dumps(fields).encode()
        return json.loads(self.ask(f"{API}/{path}", {}, "POST", body=asked).body)

    def get(self, path: str, **query: str) -> Any:
        return json.loads(self.ask(f"{API}/{path}", query).body)


@pytest.fixture
def door(registry: Any) -> Door:
    """To a registry with two versions of a model, of which the first is the champion."""
    registry.apply(MODEL, TENSORS_ENDPOINT, request_id="declare")
    registry.register("one", tags={"team": "risk"}, card="# Fraud")
    registry.clock.advance(60_000_000)
    registry.register("two")
    return Door(registry)


def test_models_are_listed_with_their_newest_version_and_aliases(door):
    delay, fraud = door.get("registered-models/search", max_results="100")["registered_models"]

    every = "tag.`mlflow.prompt.is_prompt` != 'true'"  # as its client asks for all
    assert 2 == len(door.get("registered-models/search", filter=every)["registered_models"])
    assert {"name": "delay", "latest_versions": [], "aliases": []} == delay
    assert [{"alias": "champion", "version": "1"}] == fraud["aliases"]
    assert ["2"] == [each["version"] for each in fraud["latest_versions"]]
    assert fraud == door.get("registered-models/get", name="fraud")["registered_model"]
    latest = door.get("registered-models/get-latest-versions", name="fraud")
    assert fraud["latest_versions"] == latest["model_versions"]


def test_model_is_as_old_as_its_first_version_and_changed_by_its_newest(door):
    (fraud,) = door.get("registered-models/search")["registered_models"][1:]
    newest, first = door.get("model-versions/search", filter="name='fraud'")["model_versions"]

    assert first["creation_timestamp"] == fraud["creation_timestamp"]
    assert newest["creation_timestamp"] == fraud["last_updated_timestamp"]
    assert 60_000 == fraud["last_updated_timestamp"] - fraud["creation_timestamp"]


def test_models_come_page_by_page(door):
    first = door.get("registered-models/search", max_results="1")
    second = door.get(
        "registered-models/search", max_results="1", page_token=first["next_page_token"]
    )

    pages = [page["registered_models"] for page in (first, second)]
    assert [["delay"], ["fraud"]] == [[each["name"] for each in page] for page in pages]
    assert "" == second["next_page_token"]


def test_version_is_found_by_number_and_by_alias(door):
    champion = door.get("registered-models/alias", name="fraud", alias="champion")

    version = champion["model_version"]
    assert champion == door.get("model-versions/get", name="fraud", version="1")
    assert ("fraud", "1", ["champion"], "READY", "# Fraud") == tuple(
        version[field] for field in ("name", "version", "aliases", "status", "description")
    )
    assert [{"key": "team", "value": "risk"}] == version["tags"]


def test_version_that_was_taken_back_is_told_so(door, registry):
    retract_version(
        RetractVersion("retract-2", "fraud", 2, "wrong rows"),
        caller="ann",
        store=registry.store,
        clock=registry.clock,
    )

    version = door.get("model-versions/get", name="fraud", version="2")["model_version"]
    assert ("FAILED_REGISTRATION", "Taken back by ann: wrong rows") == (
        version["status"],
        version["status_message"],
    )


@pytest.mark.parametrize("words", ["name='fraud'", 'name = "fraud"'])
def test_versions_of_a_model_are_found_newest_first(door, words):
    found = door.get("model-versions/search", filter=words, max_results="200000")

    assert ["2", "1"] == [each["version"] for each in found["model_versions"]]


def test_file_of_a_version_is_fetched_by_its_digest(door):
    told = door.get("model-versions/get-download-uri", name="fraud", version="2")
    assert {"artifact_uri": f"mlflow-artifacts:/{DIGEST}"} == told

    listed = json.loads(door.ask(ARTIFACTS, {"path": DIGEST}).body)
    assert {"files": [{"path": "model.onnx", "is_dir": False}]} == listed
    below = json.loads(door.ask(ARTIFACTS, {"path": f"{DIGEST}/model.onnx"}).body)
    assert {"files": []} == below
    assert ONNX == door.ask(FILE, {}).body


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("registered-models/get", {"name": "no"}, 404, UNKNOWN),
        ("registered-models/alias", {"name": "fraud", "alias": "x"}, 404, UNKNOWN),
        ("model-versions/get", {"name": "fraud", "version": "9"}, 404, UNKNOWN),
        ("model-versions/get", {"name": "../x", "version": "1"}, 400, "INVALID_PARAMETER_VALUE"),
        ("model-versions/get", {}, 400, "INVALID_PARAMETER_VALUE"),
        ("model-versions/search", {"filter": "run_id='x'"}, 400, "INVALID_PARAMETER_VALUE"),
        ("registered-models/search", {"filter": "name like 'x'"}, 400, "INVALID_PARAMETER_VALUE"),
        ("registered-models/search", {"max_results": "-1"}, 400, "INVALID_PARAMETER_VALUE"),
        ("registered-models/search", {"page_token": "x"}, 400, "INVALID_PARAMETER_VALUE"),
    ],
)
def test_what_cannot_be_answered_is_told_in_its_words(door, path, query, status, code):
    told = door.ask(f"{API}/{path}", query)

    assert (status, code) == (told.status, json.loads(told.body)["error_code"])


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("registered-models/search", "page_token"),
        ("registered-models/search", "filter"),
        ("registered-models/search", "max_results"),
        ("registered-models/get-latest-versions", "name"),
        ("model-versions/search", "filter"),
    ],
)
def test_half_a_surrogate_pair_is_the_callers_mistake(door, path, field):
    """JSON can name one, and UTF-8 has none."""
    told = door.post(path, **{field: "name = '\ud800'" if field == "filter" else "\ud800.x"})

    assert "INVALID_PARAMETER_VALUE" == told["error_code"]


def test_only_a_digest_names_a_file(door):
    for path in ("../etc", "", DIGEST[:-1], f"{DIGEST.upper()}/model.onnx"):
        assert 400 == door.ask(ARTIFACTS, {"path": path}).status


@pytest.mark.parametrize(
    "path", ["../model.onnx", f"{DIGEST}/../model.onnx", f"{DIGEST}%2fmodel.onnx"]
)
def test_path_that_could_lead_elsewhere_is_no_endpoint(door, path):
    with pytest.raises(HttpError) as refused:
        door.ask(f"{ARTIFACTS}/{path}", {})
    assert (404, "ENDPOINT_NOT_FOUND") == words(refused.value.told)


@pytest.mark.parametrize("path", ["/", "/metrics", "/api/2.0/mlflow-artifactsX/artifacts"])
def test_path_outside_its_api_is_told_by_http_alone(door, path):
    with pytest.raises(HttpError, match="no such path") as refused:
        door.ask(path, {})
    assert (404, None) == (refused.value.status, refused.value.told)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{API}/registered-models/create"),
        ("POST", f"{API}/registered-models/alias"),
        ("DELETE", f"{API}/registered-models/alias"),
        ("PATCH", f"{API}/model-versions/update"),
        ("PUT", FILE),
        ("DELETE", FILE),
        ("PUT", f"{ARTIFACTS}/x"),
        ("PUT", f"{ARTIFACTS}/x/model.onnx"),
        ("POST", f"{FILES_API}/mpu/create/{DIGEST}"),
    ],
)
def test_whatever_writes_is_refused(door, method, path):
    with pytest.raises(HttpError) as refused:
        door.ask(path, {}, method)
    assert (405, "NOT_IMPLEMENTED") == words(refused.value.told)


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "registered-models/get-prompt", "not offered"),
        ("GET", "experiments/get", "experiments, runs and the like are no part of this"),
        ("POST", "experiments/search", "experiments, runs and the like are no part of this"),
        ("POST", "runs/search", "experiments, runs and the like are no part of this"),
        ("POST", "experiments/create", "experiments, runs and the like are no part of this"),
    ],
)
def test_what_is_not_offered_is_no_endpoint(door, method, path, said):
    with pytest.raises(HttpError) as refused:
        door.ask(f"{API}/{path}", {}, method)
    assert (404, "ENDPOINT_NOT_FOUND") == words(refused.value.told)
    assert said in json.loads(refused.value.told.body)["message"]


def words(response: HttpResponse) -> tuple[int, str]:
    return response.status, json.loads(response.body)["error_code"]


def test_damaged_file_is_not_handed_out(registry, door):
    registry.artifacts.delete(f"sha256/{DIGEST}")
    registry.artifacts.put_if_absent(f"sha256/{DIGEST}", b"other")

    told = door.ask(FILE, {})

    assert (500, "DATA_LOSS") == words(told)
    assert b"DIGEST_MISMATCH" in told.body


def test_downloads_beyond_the_bound_are_told_to_come_again(monkeypatch, registry):
    monkeypatch.setattr(mlflow_api, "DOWNLOADS_MAX", 0)

    told = Door(registry).ask(FILE, {})

    assert (429, "REQUEST_LIMIT_EXCEEDED") == words(told)
    assert {"Retry-After": "1"} == told.headers


def test_file_above_the_cap_is_not_told_to_be_asked_again(monkeypatch, registry, door):
    def too_large(_: str) -> None:
        raise Busy("ARTIFACT_TOO_LARGE")

    monkeypatch.setattr(registry.artifacts, "pieces", too_large)
    told = door.ask(FILE, {})

    assert (429, "REQUEST_LIMIT_EXCEEDED") == words(told)
    assert {} == told.headers


def test_store_that_is_away_is_told_to_be_asked_again(monkeypatch, registry, door):
    def away(_: str) -> None:
        raise Unavailable("OBJECT_STORE_UNAVAILABLE")

    monkeypatch.setattr(registry.artifacts, "pieces", away)

    assert (503, "TEMPORARILY_UNAVAILABLE") == words(door.ask(FILE, {}))


def test_file_is_read_while_it_is_sent(monkeypatch, door):
    monkeypatch.setattr(mlflow_api, "PIECE_BYTES", 3)
    with ExitStack() as until_sent:
        body = door.ask_unread(until_sent, FILE, {}).body

        assert len(ONNX) == body.size_bytes
        pieces = list(body.read)

    assert ONNX == b"".join(pieces)
    assert {3} == {len(piece) for piece in pieces[:-1]}


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("registered-models/search", {"max_results": 1}),
        ("model-versions/search", {"filter": "name='fraud'", "order_by": ["version_number"]}),
        ("registered-models/get-latest-versions", {"name": "fraud", "stages": ["None"]}),
    ],
)
def test_what_is_searched_by_post_is_answered_as_by_get(door, path, fields):
    plain = {name: str(value) for name, value in fields.items() if not isinstance(value, list)}

    assert door.get(path, **plain) == door.post(path, **fields)


@pytest.mark.parametrize(
    ("stages", "versions"),
    [([], ["2"]), (["None"], ["2"]), (["Production"], []), (["Staging", "none"], ["2"])],
    ids=str,
)
def test_no_version_is_in_a_stage(door, stages, versions):
    for ask in (door.get, door.post):
        told = ask("registered-models/get-latest-versions", name="fraud", stages=stages)
        assert versions == [each["version"] for each in told["model_versions"]]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_post_that_holds_no_fields_is_told(door, body):
    told = door.ask(f"{API}/registered-models/search", {}, "POST", body=body)

    assert (400, "INVALID_PARAMETER_VALUE") == words(told)


def test_download_keeps_its_place_until_its_caller_has_read_it(door):
    with ExitStack() as unread:
        for _ in range(DOWNLOADS_MAX):
            door.ask_unread(unread, FILE, {})
        assert (429, "REQUEST_LIMIT_EXCEEDED") == words(door.ask(FILE, {}))

    assert ONNX == door.ask(FILE, {}).body


def test_download_that_fails_gives_its_place_back(door):
    missing = f"{ARTIFACTS}/{'0' * 64}/model.onnx"
    for _ in range(DOWNLOADS_MAX + 1):
        assert 404 == door.ask(missing, {}).status


def test_every_path_needs_a_token_that_may_read(registry, tmp_path):
    file = tmp_path / "tokens.json"
    shown = {
        name: {"authorization": f"Bearer {issue_token(file, name, permissions)}"}
        for name, permissions in (("reader", ["read"]), ("labeller", ["label"]))
    }
    door = Door(registry, file)
    paths = [ARTIFACTS, FILE, f"{API}/runs/search", *door._api._routes]

    for path in paths:
        with pytest.raises(HttpError, match="TOKEN_UNKNOWN") as unknown:
            door.ask(path, {})
        with pytest.raises(HttpError, match="ACTION_FORBIDDEN") as forbidden:
            door.ask(path, {}, **shown["labeller"])
        assert (401, "UNAUTHENTICATED") == words(unknown.value.told)
        assert {"WWW-Authenticate": "Bearer"} == unknown.value.told.headers
        assert (403, "PERMISSION_DENIED") == words(forbidden.value.told)
    assert ONNX == door.ask(FILE, {}, **shown["reader"]).body

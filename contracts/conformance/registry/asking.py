# SPDX-License-Identifier: Apache-2.0
"""Questions to any registry, with names of their own, so that one in use may be asked too.

What a run made stays; its endpoints are stopped when it ends.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import grpc
import pytest
from onnx import TensorProto, helper

from headrace.errors import HeadraceError
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1 import registry_service_pb2_grpc as pb_grpc
from headrace.rpc import error_of

CALL_S = 10.0
REGISTER_S = 60.0
CHUNK_BYTES = 64 * 1024
ACCURACY_MIN = 0.9
PREFIX = "conformance-"
# Of all that this run makes.
OURS = f"{PREFIX}{uuid.uuid4().hex[:8]}-"
_numbers = count(1)


def fresh(what: str) -> str:
    """A name that nothing has yet."""
    return f"{OURS}{what}-{next(_numbers)}"


def an_onnx_file(name: str = "", *, columns: int = 2) -> bytes:
    """Takes and gives `[rows, columns]` FP32; another name is another digest."""
    x, y = (
        helper.make_tensor_value_info(each, TensorProto.FLOAT, ["rows", columns])
        for each in ("x", "y")
    )
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], name or fresh("graph"),
                              [x], [y])  # fmt: skip
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def parts_of(
    data: bytes, *, offset: int = 0, **metadata: Any
) -> Iterator[pb.UploadArtifactRequest]:
    """An upload of the bytes from the offset on; `metadata` says otherwise than is true."""
    told = {"digest": digest_of(data), "size_bytes": len(data), "format": "onnx", **metadata}
    yield pb.UploadArtifactRequest(metadata=pb.ArtifactMetadata(**told), offset_bytes=offset)
    for start in range(offset, len(data), CHUNK_BYTES):
        yield pb.UploadArtifactRequest(chunk=data[start : start + CHUNK_BYTES])


def refused(ask: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """The code and the reason of a refusal."""
    with pytest.raises(grpc.RpcError) as caught:
        ask()
    return refusal_of(caught.value)


def refusal_of(err: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    error = error_of(err)
    assert isinstance(error, HeadraceError)
    return err.code(), error.reason


@dataclass(frozen=True)
class Left:
    """What stays of a run, by its names: definitions and stopped endpoints."""

    models: int
    endpoints: int
    stopped: int


@dataclass
class Registry:
    """The registry under test, asked with a token or without."""

    channel: grpc.Channel
    token: str = ""

    def __post_init__(self) -> None:
        self._stub = pb_grpc.RegistryServiceStub(self.channel)
        self._artifacts = pb_grpc.ArtifactServiceStub(self.channel)

    def call(self, method: str, request: Any, *, timeout_s: float = CALL_S) -> Any:
        """The answer, or grpc.RpcError."""
        stub = self._artifacts if "Artifact" in method or "Upload" in method else self._stub
        return getattr(stub, method)(request, timeout=timeout_s, metadata=self.metadata)

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def apply(
        self, *documents: Mapping[str, Any], application: str = "", request_id: str = ""
    ) -> list[events.Definition]:
        sent = [
            events.Definition(kind=d["kind"], name=d["name"], spec_json=json.dumps(d).encode())
            for d in documents
        ]
        request = pb.ApplyDefinitionsRequest(
            request_id=request_id or fresh("apply"),
            application=application or fresh("application"),
            definitions=sent,
        )
        return [*self.call("ApplyDefinitions", request).definitions]

    def retract(self, kind: str, name: str) -> events.Definition:
        request = pb.RetractDefinitionRequest(request_id=fresh("retract"), kind=kind, name=name)
        return self.call("RetractDefinition", request).definition

    def declare(self, *, endpoints: int = 1, approval: bool = False) -> str:
        """A new model, with endpoints of its name and `-1`, `-2`; its gate wants 0.9, or a yes."""
        name = fresh("model")
        gate = {"approval": True} if approval else {"metrics": {"accuracy": {"min": ACCURACY_MIN}}}
        about = {"name": name, "description": "Conformance."}
        served = [
            {**about, "kind": "endpoint", "name": f"{name}-{number}", "model": name}
            for number in range(1, endpoints + 1)
        ]
        self.apply({**about, "kind": "model", "gate": gate}, *served)
        return name

    def upload(self, data: bytes, **metadata: Any) -> str:
        return str(self.send(parts_of(data, **metadata)).digest)

    def send(self, parts: Iterator[pb.UploadArtifactRequest]) -> Any:
        return self.call("UploadArtifact", parts, timeout_s=REGISTER_S)

    def download(self, digest: str, *, offset: int = 0) -> bytes:
        request = pb.DownloadArtifactRequest(digest=digest, offset_bytes=offset)
        return b"".join(part.chunk for part in self.call("DownloadArtifact", request))

    def register(
        self, model: str, digest: str, *, accuracy: float = 1.0, request_id: str = "", **more: Any
    ) -> events.ModelVersion:
        request = pb.RegisterVersionRequest(
            request_id=request_id or fresh("register"),
            model=model,
            digest=digest,
            metrics={"accuracy": accuracy},
            **more,
        )
        return self.call("RegisterVersion", request, timeout_s=REGISTER_S).version

    def registered(self, *, versions: int = 1, endpoints: int = 1) -> str:
        """A new model with so many versions whose gates passed; the first is its champion."""
        model, digest = self.declare(endpoints=endpoints), self.upload(an_onnx_file("shared"))
        for _ in range(versions):
            self.register(model, digest)
        return model

    def move(
        self, model: str, version: int, seen: int, *, alias: str = "champion", **more: str
    ) -> events.Alias:
        request = pb.SetAliasRequest(
            model=model,
            alias=alias,
            version=version,
            generation_expected=seen,
            **{"request_id": fresh("move"), **more},
        )
        return self.call("SetAlias", request).alias

    def alias(self, model: str, alias: str = "champion") -> events.Alias:
        found = self.call("ListAliases", pb.ListAliasesRequest(model=model)).aliases
        return next(each for each in found if each.alias == alias)

    def rollout(self, endpoint: str) -> events.Rollout:
        rollouts = self.all("ListRollouts", pb.ListRolloutsRequest(), "rollouts")
        return next(each for each in rollouts if each.endpoint == endpoint)

    def roll(self, endpoint: str, seen: int, **asked: Any) -> events.Rollout:
        request = pb.SetRolloutRequest(
            endpoint=endpoint,
            generation_expected=seen,
            **{"request_id": fresh("roll"), "reason": "conformance", **asked},
        )
        return self.call("SetRollout", request).rollout

    def leave(self, names: str = OURS) -> Left:
        """Stops the endpoints whose names begin so: who serves them answers ENDPOINT_STOPPED."""
        listed = self.all("ListDefinitions", pb.ListDefinitionsRequest(), "definitions")
        kinds = [each.kind for each in listed if each.name.startswith(names)]
        rollouts = self.all("ListRollouts", pb.ListRolloutsRequest(), "rollouts")
        serving = [each for each in rollouts if each.endpoint.startswith(names)]
        for each in serving:
            if not each.stopped:
                self.roll(each.endpoint, each.generation, stopped=True)
        return Left(kinds.count("model"), kinds.count("endpoint"), len(serving))

    def resolve(self, reference: str) -> Any:
        return self.call("ResolveModel", pb.ResolveModelRequest(reference=reference))

    def changes(self, model: str) -> Sequence[pb.Change]:
        return self.call("ListChanges", pb.ListChangesRequest(model=model)).changes

    def all(self, method: str, request: Any, entries: str) -> list[Any]:
        """Every entry of every page."""
        found: list[Any] = []
        while True:
            page = self.call(method, request)
            found += getattr(page, entries)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

# SPDX-License-Identifier: Apache-2.0
"""Models of a running Headrace: register a file, describe, approve and find versions.

A version is named `models:/delay@champion` or `models:/delay/7`, and `models:/` may be left out.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from headrace.artifacts import download, download_chunks, upload
from headrace.errors import Corrupt, Invalid
from headrace.model_reference import ModelReference, parse_reference
from headrace.registry.v1 import registry_events_pb2 as events
from headrace.registry.v1 import registry_service_pb2 as pb
from headrace.registry.v1 import registry_service_pb2_grpc
from headrace.rpc import call, pages
from headrace.whole_file import whole_file

if TYPE_CHECKING:
    from headrace.model_signing import SigningKey, TrustedSigners

CALL_S = 5.0
REGISTER_S = 60.0
# The action of a change that ApproveVersion made, and how many changes are looked through for it.
APPROVED = "approve_version"
CHANGES_MAX = 10_000


def number_of(registry: Any, reference: ModelReference) -> int:
    """The version that the reference names now; `registry` is a stub of RegistryService."""
    if reference.version:
        return reference.version
    request = pb.ResolveModelRequest(reference=str(reference))
    answer = call(registry.ResolveModel, request, timeout_s=CALL_S, retries_max=3)
    return int(answer.version.version)


class Models:
    """What `Client.models` gives; safe to use from several threads."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._registry: Any = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self._artifacts: Any = registry_service_pb2_grpc.ArtifactServiceStub(channel)

    def list(self) -> Iterator[pb.Model]:
        """Every model that is declared, trained or has a version, by name."""
        request = pb.ListModelsRequest()
        for page in pages(self._registry.ListModels, request, timeout_s=CALL_S, retries_max=3):
            yield from page.models

    def get(self, reference: str) -> events.ModelVersion:
        """The version that the reference names now, with its card.

        Raises Invalid BAD_NAME, NotFound VERSION_UNKNOWN or ALIAS_UNKNOWN.
        """
        request = pb.ResolveModelRequest(reference=reference)
        answer = call(self._registry.ResolveModel, request, timeout_s=CALL_S, retries_max=3)
        return answer.version

    def number(self, reference: ModelReference) -> int:
        """The version that the reference names now; raises NotFound ALIAS_UNKNOWN."""
        return number_of(self._registry, reference)

    def register(
        self,
        model: str,
        file: Path | bytes,
        *,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
        card: str = "",
        reason: str = "",
        request_id: str | None = None,
    ) -> events.ModelVersion:
        """Makes an ONNX file that was trained elsewhere the next version of an applied model.

        What it takes and gives is read from the file. The model's gate judges the metrics, or waits
        for somebody's approval. Raises Invalid PICKLE, FORMAT or EXTERNAL_DATA, NotFound
        MODEL_UNKNOWN.
        """
        request = pb.RegisterVersionRequest(
            request_id=request_id or str(uuid.uuid4()),
            model=model,
            digest=self.upload(file),
            metrics=metrics or {},
            tags=tags or {},
            card=card,
            reason=reason,
        )
        answer = call(self._registry.RegisterVersion, request, timeout_s=REGISTER_S, retries_max=2)
        return answer.version

    def approve(
        self,
        reference: str,
        *,
        approver: str = "",
        reason: str = "",
        request_id: str | None = None,
    ) -> events.ModelVersion:
        """Opens the gate of a version that awaits approval; Conflict GATE_SETTLED for another."""
        version = self.get(reference)
        request = pb.ApproveVersionRequest(
            request_id=request_id or str(uuid.uuid4()),
            model=version.model,
            version=version.version,
            approver=approver,
            reason=reason,
        )
        answer = call(self._registry.ApproveVersion, request, timeout_s=CALL_S, retries_max=3)
        return answer.version

    def retract(
        self, reference: str, *, reason: str = "", request_id: str | None = None
    ) -> events.ModelVersion:
        """Takes a version back, which its number names: its gate is shut for good.

        Raises Invalid BAD_NAME for an alias, Conflict VERSION_NEEDED while an alias or an endpoint
        points to it, GATE_SETTLED when it was taken back before.
        """
        named = parse_reference(reference)
        if named.alias:  # which may have moved on since its caller looked
            raise Invalid("BAD_NAME", reference=reference, problem="name the version by its number")
        request = pb.RetractVersionRequest(
            request_id=request_id or str(uuid.uuid4()),
            model=named.model,
            version=named.version,
            reason=reason,
        )
        answer = call(self._registry.RetractVersion, request, timeout_s=CALL_S, retries_max=3)
        return answer.version

    def approval(self, version: events.ModelVersion) -> pb.Change | None:
        """Who approved the version, when and why, of the newest 10,000 changes of its model."""
        subject = f"models:/{version.model}/{version.version}"
        newest = islice(self.changes(version.model), CHANGES_MAX)
        found = (each for each in newest if (each.action, each.subject) == (APPROVED, subject))
        return next(found, None)

    def sign(
        self,
        reference: str,
        signing_key: SigningKey,
        *,
        reason: str = "",
        request_id: str | None = None,
    ) -> events.ModelVersion:
        """Signs a version, of which the registry tells the digest, and keeps that there.

        Raises Invalid SIGNATURE_INVALID for a key that the registry does not trust.
        """
        from headrace.model_signing import sign  # the extra `signing`

        version = self.get(reference)
        name = f"models:/{version.model}/{version.version}"
        request = pb.SignVersionRequest(
            request_id=request_id or str(uuid.uuid4()),
            model=version.model,
            version=version.version,
            bundle=sign(name, version.digest, signing_key),
            reason=reason,
        )
        answer = call(self._registry.SignVersion, request, timeout_s=CALL_S, retries_max=3)
        return answer.version

    def verify(self, reference: str, trusted: TrustedSigners) -> str:
        """Who signed a version; its file and its bundle are fetched, and nothing else is believed.

        Raises Invalid SIGNATURE_INVALID, Corrupt DIGEST_MISMATCH.
        """
        from headrace.model_signing import verify

        version = self.get(reference)
        if not version.bundle_digest:
            raise Invalid("SIGNATURE_INVALID", problem="nobody has signed the version")
        download(self._artifacts, version.digest)  # which hashes to it
        bundle = download(self._artifacts, version.bundle_digest)
        name = f"models:/{version.model}/{version.version}"
        return verify(bundle, trusted, name=name, digest=version.digest)

    def describe(
        self,
        reference: str,
        *,
        tags: Mapping[str, str] | None = None,
        tags_removed: Sequence[str] = (),
        card: str | None = None,
        reason: str = "",
        request_id: str | None = None,
    ) -> events.ModelVersion:
        """Sets and removes tags and replaces the card, all or none; no card leaves it."""
        version = self.get(reference)
        request = pb.DescribeVersionRequest(
            request_id=request_id or str(uuid.uuid4()),
            model=version.model,
            version=version.version,
            tags_set=tags or {},
            tags_removed=tags_removed,
            card=card,
            reason=reason,
        )
        answer = call(self._registry.DescribeVersion, request, timeout_s=CALL_S, retries_max=3)
        return answer.version

    def changes(self, model: str = "") -> Iterator[pb.Change]:
        """Who changed what, when and why, newest first; of all models unless one is named."""
        request = pb.ListChangesRequest(model=model)
        for page in pages(self._registry.ListChanges, request, timeout_s=CALL_S, retries_max=3):
            yield from page.changes

    def upload(self, file: Path | bytes) -> str:
        """Stores a file under its sha256 and answers it; what is there already is there once.

        An upload that was cut goes on where it was, in this call or in a later one. Raises as
        `headrace.artifacts.upload` does.
        """
        return upload(self._artifacts, file if isinstance(file, bytes) else file.read_bytes())

    def download(self, reference: str) -> bytes:
        """The file of a version; raises Corrupt DIGEST_MISMATCH unless it hashes to its digest."""
        return download(self._artifacts, self.get(reference).digest)

    def download_to(self, reference: str, file: Path) -> events.ModelVersion:
        """As `download`, piece by piece into a file; what does not hash to the digest is not kept.

        Answers the version. Raises Corrupt DIGEST_MISMATCH.
        """
        version, hashed = self.get(reference), hashlib.sha256()
        with whole_file(file) as opened:
            for chunk in download_chunks(self._artifacts, version.digest):
                hashed.update(chunk)
                opened.write(chunk)
            if (found := hashed.hexdigest()) != version.digest:
                raise Corrupt("DIGEST_MISMATCH", digest=version.digest, found=found)
        return version

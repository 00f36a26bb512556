# SPDX-License-Identifier: Apache-2.0
"""Small parsers of what strangers send: safetensors files, bundles of signatures, claims."""

from __future__ import annotations

from io import BytesIO

from libs.headrace.tests.test_model_signing import THEIR_BUNDLE, THEIR_KEY
from services.registry.tests.test_artifacts import PICKLED_TEXT, tensor, weights
from tests.fuzz.campaign import Broken, Judge

from headrace.claims import CLAIM_BYTES, CLAIM_DIGEST
from headrace.errors import Invalid
from headrace.model_signing import read_trusted_signers, verify
from headrace_inference.adapters.request_claims import claim_of
from headrace_registry.domain.safetensors_file import begins_as_safetensors, check_safetensors

# What is signed, by the other tool.
SIGNED_NAME = "model.onnx"
SIGNED_DIGEST = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def safetensors_files() -> list[bytes]:
    several = {"b": tensor(4, 12, "I64"), "a": tensor(0, 4), "__metadata__": {"format": "pt"}}
    layers = {f"layer.{n}.weight": tensor(8 * n, 8 * n + 8, "F64") for n in range(9)}
    return [
        weights(several, b"x" * 12),
        weights({"a": tensor(0, 24, "F32", [2, 3])}, b"x" * 24),
        weights({"a": tensor(0, 0, "F16", [0, 3]), "b": tensor(0, 2, "U8", [2])}, b"xx"),
        weights(layers, b"y" * 72),
        weights({"é": tensor(0, 1, "BOOL", []), "__metadata__": {"a": "b", "c": ""}}, b"z"),
        weights({"__metadata__": {"a": PICKLED_TEXT}, "a": tensor(0, 4)}, b"x" * 4),
        weights({"a": tensor(0, 4, "F32", [1] * 64)}, b"x" * 4),
    ]


def safetensors_judge() -> Judge:
    def judge(data: bytes) -> str:
        file = BytesIO(data)
        began = begins_as_safetensors(file)
        try:
            check_safetensors(file)
        except Invalid as err:
            return _one_of(err, "FORMAT", "PICKLE")
        if not began:
            raise Broken("it is taken, and does not begin as one")
        return "taken"

    return judge


def bundles() -> list[bytes]:
    return [THEIR_BUNDLE, THEIR_BUNDLE.replace(b"\n", b"").replace(b" ", b"")]


def bundle_judge() -> Judge:
    trusted = read_trusted_signers(THEIR_KEY)
    told = verify(THEIR_BUNDLE, trusted, name=SIGNED_NAME, digest=SIGNED_DIGEST)

    def judge(data: bytes) -> str:
        try:
            signer = verify(data, trusted, name=SIGNED_NAME, digest=SIGNED_DIGEST)
        except Invalid as err:
            return _one_of(err, "SIGNATURE_INVALID")
        if signer != told:
            raise Broken(f"another signer: {signer}")
        return "holds"

    return judge


def claims() -> list[bytes]:
    """A digest, and how many bytes, as two headers of a record have them."""
    return [b"%s\n%s" % (SIGNED_DIGEST.encode(), size) for size in (b"0", b"5", b"999999999999")]


def claim_judge() -> Judge:
    def judge(data: bytes) -> str:
        digest, _, size = data.partition(b"\n")
        try:
            claim = claim_of({CLAIM_DIGEST: digest, CLAIM_BYTES: size})
        except Invalid as err:
            return _one_of(err, "BAD_REQUEST")
        if claim is None or (claim.digest.encode(), claim.size_bytes) != (digest, int(size)):
            raise Broken("it claims something else than it says")
        return "claimed"

    return judge


def _one_of(err: Invalid, *reasons: str) -> str:
    if err.reason not in reasons:
        raise Broken(f"refused by {err.reason}")
    return err.reason

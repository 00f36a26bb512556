# SPDX-License-Identifier: Apache-2.0
"""Detached signatures of model versions, in the format of OpenSSF Model Signing 1.0, offline.

A Sigstore bundle 0.3 holds a DSSE envelope, which holds an in-toto statement: the name of the
version and the sha256 of its file. It is signed by an elliptic-curve key, alone or with the chain
of its certificate. `model_signing verify` of OpenSSF takes these bundles; of its own, we take those
that name the version. Needs the extra `signing`.

https://github.com/sigstore/model-transparency, https://github.com/secure-systems-lab/dsse,
https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from headrace.errors import Invalid

BUNDLE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
# What the tool writes for a model of one file.
SOLE_FILE = "."
BUNDLE_BYTES_MAX = 64 * 1024
CHAIN_MAX = 4
SIGNER_LENGTH_MAX = 128
# As Sigstore's protobuf specs pair them.
HASH_BY_CURVE: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
MALFORMED = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
)
PEM_BEGIN, PEM_END = b"-----BEGIN ", b"-----END "


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key, and the certificates that vouch for it: its own first, none for a bare key."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class TrustedSigners:
    """Public keys by their hint, and the certificates that a chain may end in."""

    keys: dict[str, ec.EllipticCurvePublicKey]
    anchors: tuple[x509.Certificate, ...]


def read_signing_key(key: bytes, chain: bytes = b"", *, password: bytes | None) -> SigningKey:
    """From PEM. Raises Invalid BAD_REQUEST; TypeError when it needs a password and got none."""
    try:
        private = serialization.load_pem_private_key(key, password)
        certificates = tuple(x509.load_pem_x509_certificates(chain)) if chain else ()
    except (ValueError, UnsupportedAlgorithm) as err:
        raise Invalid("BAD_REQUEST", field="key", problem="it cannot be read") from err
    if (
        not isinstance(private, ec.EllipticCurvePrivateKey)
        or private.curve.name not in HASH_BY_CURVE
    ):
        raise Invalid("BAD_REQUEST", field="key", problem="it is not of P-256, P-384 or P-521")
    if certificates and certificates[0].public_key() != private.public_key():
        raise Invalid("BAD_REQUEST", field="certificate", problem="the first is of another key")
    return SigningKey(private, certificates)


def read_trusted_signers(pem: bytes) -> TrustedSigners:
    """From PEM blocks, public keys and certificates. Raises ValueError with a sentence."""
    keys, anchors = {}, []
    for block in _blocks(pem):
        if block.startswith(PEM_BEGIN + b"CERTIFICATE"):
            anchors.append(x509.load_pem_x509_certificate(block))
        elif block.startswith(PEM_BEGIN + b"PUBLIC KEY"):
            key = _trusted_key(block)
            keys[_hint(key)] = key
        else:
            raise ValueError("it holds something else than public keys and certificates")
    if not keys and not anchors:
        raise ValueError("it holds no public key and no certificate")
    return TrustedSigners(keys, tuple(anchors))


def _trusted_key(block: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_pem_public_key(block)
    except UnsupportedAlgorithm as err:  # which is no ValueError
        raise ValueError(f"a public key cannot be read: {err}") from err
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in HASH_BY_CURVE:
        raise ValueError("a public key is not of P-256, P-384 or P-521")
    return key


def sign(name: str, digest: str, signing_key: SigningKey) -> bytes:
    """The bundle that says that the model of this name has this sha256."""
    payload = json.dumps(_statement(name, digest)).encode()
    public = signing_key.key.public_key()
    signature = signing_key.key.sign(_pae(payload), ec.ECDSA(HASH_BY_CURVE[public.curve.name]))
    if signing_key.chain:
        chain = [
            {"rawBytes": _base64(each.public_bytes(serialization.Encoding.DER))}
            for each in signing_key.chain
        ]
        material: dict[str, Any] = {"x509CertificateChain": {"certificates": chain}}
    else:
        material = {"publicKey": {"hint": _hint(public)}}
    return json.dumps(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {**material, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": _base64(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": _base64(signature), "keyid": ""}],
            },
        }
    ).encode()


def verify(
    bundle: bytes, trusted: TrustedSigners, *, name: str, digest: str, now_us: int | None = None
) -> str:
    """Who signed that the model of this name has this digest.

    Certificates must hold at `now_us`, or now by the clock of the machine.
    Raises Invalid SIGNATURE_INVALID with the problem.
    """
    if len(bundle) > BUNDLE_BYTES_MAX:
        raise _invalid("the bundle is larger than 64 KiB")
    try:
        # JSON between systems is UTF-8 (RFC 8259, 8.1); of bytes, json would guess.
        signer, payload = _verified(json.loads(bundle.decode()), trusted, now_us)
        said_name, said_digest = _said(json.loads(payload.decode()))
    except InvalidSignature as err:
        raise _invalid("the signature is not of what was signed") from err
    except VerificationError as err:
        raise _invalid("no trusted certificate vouches for the key now") from err
    except MALFORMED as err:
        raise _invalid("it is no bundle of OpenSSF Model Signing 1.0") from err
    except RecursionError as err:
        raise _invalid("it is nested too deep") from err
    if said_digest != digest:
        raise _invalid("it is of a file with another digest")
    if said_name != name:
        raise _invalid("it is of another version")
    return signer


def _verified(bundle: Any, trusted: TrustedSigners, now_us: int | None) -> tuple[str, bytes]:
    """Who signed, and what."""
    envelope = bundle["dsseEnvelope"]
    (signature,) = envelope["signatures"]
    if (bundle["mediaType"], envelope["payloadType"]) != (BUNDLE_TYPE, PAYLOAD_TYPE):
        raise ValueError("another format")
    key, signer = _key_of(bundle["verificationMaterial"], trusted, now_us)
    payload = base64.b64decode(envelope["payload"], validate=True)
    sent = base64.b64decode(signature["sig"], validate=True)
    key.verify(sent, _pae(payload), ec.ECDSA(HASH_BY_CURVE[key.curve.name]))
    return signer, payload


def _key_of(
    material: Any, trusted: TrustedSigners, now_us: int | None
) -> tuple[ec.EllipticCurvePublicKey, str]:
    if "publicKey" in material:
        hint = material["publicKey"]["hint"]
        if hint not in trusted.keys:
            raise _invalid("its key is not trusted")
        return trusted.keys[hint], f"key {hint[:16]}"
    chain = [
        x509.load_der_x509_certificate(base64.b64decode(each["rawBytes"], validate=True))
        for each in material["x509CertificateChain"]["certificates"][:CHAIN_MAX]
    ]
    _check_chain(chain, trusted.anchors, now_us)
    key = chain[0].public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("another kind of key")
    subject = chain[0].subject.rfc4514_string()
    return key, "".join(filter(str.isprintable, subject))[:SIGNER_LENGTH_MAX]


def _check_chain(
    chain: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], now_us: int | None
) -> None:
    if not anchors:
        raise _invalid("no certificate is trusted")
    builder = PolicyBuilder().store(Store(list(anchors))).max_chain_depth(CHAIN_MAX)
    if now_us is not None:
        builder = builder.time(datetime.fromtimestamp(now_us // 1_000_000, UTC))
    verifier = builder.extension_policies(
        # A signer is no server: it has no DNS name, and another use.
        ca_policy=ExtensionPolicy.webpki_defaults_ca(),
        ee_policy=ExtensionPolicy.permit_all(),
    ).build_client_verifier()
    verifier.verify(chain[0], list(chain[1:]))
    if not _may_sign(chain[0].extensions):
        raise _invalid("its certificate is not made for signing")


def _may_sign(extensions: x509.Extensions) -> bool:
    try:
        if extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature:
            return True
    except x509.ExtensionNotFound:
        """The other extension may say it."""
    try:
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CODE_SIGNING in usage


def _statement(name: str, digest: str) -> dict[str, Any]:
    serialized = {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": [],
    }
    resource = {"name": SOLE_FILE, "algorithm": "sha256", "digest": digest}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root([resource])}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"serialization": serialized, "resources": [resource]},
    }


def _said(statement: Any) -> tuple[str, str]:
    """The name and the digest of the one file that a statement is about."""
    (subject,) = statement["subject"]
    (resource,) = statement["predicate"]["resources"]
    types = (statement["_type"], statement["predicateType"])
    method = statement["predicate"]["serialization"]["method"]
    if types != (STATEMENT_TYPE, PREDICATE_TYPE) or method != "files":
        raise ValueError("another statement")
    if resource["algorithm"] != "sha256" or subject["digest"]["sha256"] != _root([resource]):
        raise ValueError("a digest of another kind")
    return str(subject["name"]), str(resource["digest"])


def _root(resources: Sequence[dict[str, str]]) -> str:
    """One digest over those of all files, in their order."""
    return hashlib.sha256(b"".join(bytes.fromhex(r["digest"]) for r in resources)).hexdigest()


def _pae(payload: bytes) -> bytes:
    """What is signed: DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def _hint(key: ec.EllipticCurvePublicKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.PEM, form)).hexdigest()


def _blocks(pem: bytes) -> list[bytes]:
    begun = pem.split(PEM_BEGIN)[1:]
    return [PEM_BEGIN + each for each in begun if PEM_END in each]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _invalid(problem: str) -> Invalid:
    return Invalid("SIGNATURE_INVALID", problem=problem)

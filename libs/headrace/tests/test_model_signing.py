# SPDX-License-Identifier: Apache-2.0
"""A signature tells who vouches for which bytes under which name; nothing else passes for one."""

import base64
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from headrace.errors import Invalid
from headrace.model_signing import (
    BUNDLE_BYTES_MAX,
    SigningKey,
    TrustedSigners,
    read_signing_key,
    read_trusted_signers,
    sign,
    verify,
)

NAME, DIGEST = "models:/fraud/3", "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
# Made by model-signing 1.1.1 (`model_signing sign key`) of a file with the bytes `hello`.
THEIR_KEY = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEGrpW8S/OISgwNSAaDQYSrwd3/s+8
ua75zHUd/FW4ZiUxMe8pV9C/BV36/vaSL1XCvsVjvz00NlxWlaQxZW9VRA==
-----END PUBLIC KEY-----
"""
# Of a curve that nobody has: 1.2.840.10045.3.1.127.
UNHEARD_OF = THEIR_KEY.replace(b"AQcD", b"AX8D", 1)
THEIR_BUNDLE = Path(__file__).with_name("openssf_bundle.json").read_bytes()


def us(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def private_pem(key: object, password: bytes | None = None) -> bytes:
    sealed = serialization.BestAvailableEncryption(password) if password else None
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        sealed or serialization.NoEncryption(),
    )


def certificate_pem(*chain: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain)


KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
TRUSTED = read_trusted_signers(pem(KEY))


def checked(bundle: bytes, trusted: TrustedSigners = TRUSTED, **said: object) -> str:
    asked = {"name": NAME, "digest": DIGEST, "now_us": us(NOW), **said}
    return verify(bundle, trusted, **asked)


def problem_of(bundle: bytes, trusted: TrustedSigners = TRUSTED, **said: object) -> str:
    with pytest.raises(Invalid, match="SIGNATURE_INVALID") as refused:
        checked(bundle, trusted, **said)
    return refused.value.metadata["problem"]


def a_certificate(
    key: ec.EllipticCurvePrivateKey,
    name: str,
    issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
    *,
    ca: bool = False,
    until: datetime = NOW + DAY,
    signs: bool = True,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    above = issuer[1] if issuer else key
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "crl_sign", "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 10 * DAY)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=signs and not ca, key_cert_sign=ca, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(above.public_key()), critical=False
        )
    )
    return builder.sign(above, hashes.SHA256())


ROOT_KEY, MIDDLE_KEY = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
ROOT = a_certificate(ROOT_KEY, "root", ca=True)
MIDDLE = a_certificate(MIDDLE_KEY, "middle", (ROOT, ROOT_KEY), ca=True)
ANCHORED = read_trusted_signers(certificate_pem(ROOT))


def by_certificate(**leaf: object) -> bytes:
    """Signed with a chain of three, of which the root is not sent."""
    certificate = a_certificate(KEY, "release bot", (MIDDLE, MIDDLE_KEY), **leaf)
    return sign(NAME, DIGEST, SigningKey(KEY, (certificate, MIDDLE)))


def changed(bundle: bytes, change: object) -> bytes:
    """The bundle with another statement under the same signature."""
    told = json.loads(bundle)
    statement = json.loads(base64.b64decode(told["dsseEnvelope"]["payload"]))
    change(statement)
    told["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(told).encode()


BUNDLE = sign(NAME, DIGEST, SigningKey(KEY))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_signature_by_a_trusted_key_names_it(curve):
    key = ec.generate_private_key(curve)

    assert checked(sign(NAME, DIGEST, SigningKey(key)), read_trusted_signers(pem(key))).startswith(
        "key "
    )


def test_signature_by_a_certificate_names_its_subject():
    assert "CN=release bot" == checked(by_certificate(), ANCHORED)


def test_bundle_of_the_openssf_tool_is_taken_under_its_name():
    theirs = read_trusted_signers(THEIR_KEY)

    assert checked(THEIR_BUNDLE, theirs, name="model.onnx").startswith("key 431a17ff5dc0bac5")
    assert "it is of another version" == problem_of(THEIR_BUNDLE, theirs)


def test_key_that_is_not_trusted_is_refused():
    assert "its key is not trusted" == problem_of(sign(NAME, DIGEST, SigningKey(OTHER_KEY)))


def test_key_that_borrows_the_hint_of_a_trusted_one_is_refused():
    told = json.loads(sign(NAME, DIGEST, SigningKey(OTHER_KEY)))
    told["verificationMaterial"] = json.loads(BUNDLE)["verificationMaterial"]

    assert "the signature is not of what was signed" == problem_of(json.dumps(told).encode())


@pytest.mark.parametrize(
    "change",
    [
        lambda statement: statement["subject"][0].update(name="models:/fraud/4"),
        lambda statement: statement["predicate"]["resources"][0].update(digest="0" * 64),
        lambda statement: statement["predicate"].update(more=1),
    ],
)
def test_changed_manifest_is_refused(change):
    assert "the signature is not of what was signed" == problem_of(changed(BUNDLE, change))


def test_signature_of_another_digest_or_version_is_refused():
    assert "it is of a file with another digest" == problem_of(BUNDLE, digest="0" * 64)
    assert "it is of another version" == problem_of(BUNDLE, name="models:/fraud/4")


def test_bundle_cut_anywhere_is_refused():
    for end in range(0, len(BUNDLE), 7):
        assert "it is no bundle of OpenSSF Model Signing 1.0" == problem_of(BUNDLE[:end])


def test_bundle_with_any_bit_turned_is_refused_or_says_the_same():
    for at in range(0, len(BUNDLE), 5):
        turned = bytearray(BUNDLE)
        turned[at] ^= 1
        with suppress(Invalid):  # a space, or the id of the key: nothing that is said
            assert checked(BUNDLE) == checked(bytes(turned))


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"[" * 60_000,
        b'{"dsseEnvelope": {"signatures": []}}',
        b'{"dsseEnvelope": {"signatures": [1, 2]}}',
        BUNDLE.replace(b"v0.3", b"v0.1"),
        BUNDLE.replace(b"in-toto+json", b"in-toto+xml"),
        BUNDLE.replace(b'"publicKey"', b'"certificate"'),
        BUNDLE + b" " * BUNDLE_BYTES_MAX,
    ],
)
def test_what_is_no_bundle_is_refused(bundle):
    assert problem_of(bundle)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_bundle_and_statement_are_utf8(encoding):
    told = json.loads(BUNDLE)
    payload = base64.b64decode(told["dsseEnvelope"]["payload"]).decode().encode(encoding)
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    signature = KEY.sign(signed, ec.ECDSA(hashes.SHA256()))
    told["dsseEnvelope"] |= {
        "payload": base64.b64encode(payload).decode(),
        "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
    }

    for bundle in (BUNDLE.decode().encode(encoding), json.dumps(told).encode()):
        assert "it is no bundle of OpenSSF Model Signing 1.0" == problem_of(bundle)


def test_expired_certificate_is_refused():
    late = "no trusted certificate vouches for the key now"

    assert late == problem_of(by_certificate(until=NOW - DAY), ANCHORED)
    assert late == problem_of(by_certificate(), ANCHORED, now_us=us(NOW + 2 * DAY))
    assert late == problem_of(by_certificate(), ANCHORED, now_us=us(NOW - 11 * DAY))


def test_certificate_of_another_root_is_refused():
    other = read_trusted_signers(certificate_pem(a_certificate(OTHER_KEY, "root", ca=True)))

    assert "no trusted certificate vouches for the key now" == problem_of(by_certificate(), other)
    assert "no certificate is trusted" == problem_of(by_certificate())


def test_certificate_that_is_not_for_signing_is_refused():
    assert "its certificate is not made for signing" == problem_of(
        by_certificate(signs=False), ANCHORED
    )


def test_key_and_certificate_are_read_and_must_fit():
    certificate = a_certificate(KEY, "me")
    read = read_signing_key(private_pem(KEY), certificate_pem(certificate), password=None)
    assert (KEY.private_numbers(), (certificate,)) == (read.key.private_numbers(), read.chain)
    with pytest.raises(Invalid, match="of another key"):
        read_signing_key(private_pem(OTHER_KEY), certificate_pem(certificate), password=None)


def test_sealed_key_needs_its_password():
    sealed = private_pem(KEY, b"secret")

    assert (
        KEY.private_numbers() == read_signing_key(sealed, password=b"secret").key.private_numbers()
    )
    with pytest.raises(TypeError):
        read_signing_key(sealed, password=None)
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        read_signing_key(sealed, password=b"wrong")


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"key",
        private_pem(ec.generate_private_key(ec.SECP256K1())),
        private_pem(rsa.generate_private_key(65537, 2048)),
    ],
)
def test_key_of_another_kind_is_refused(key):
    with pytest.raises(Invalid, match="BAD_REQUEST"):
        read_signing_key(key, password=None)


@pytest.mark.parametrize(
    "trusted",
    [
        b"",
        b"# nobody",
        private_pem(KEY),
        pem(ec.generate_private_key(ec.SECP256K1())),
        pem(KEY)[:60],
        UNHEARD_OF,
    ],
)
def test_file_of_trusted_signers_that_says_something_else_is_refused(trusted):
    with pytest.raises(ValueError):
        read_trusted_signers(trusted)


def test_several_signers_are_trusted_by_one_file():
    both = read_trusted_signers(b"# ann\n" + pem(KEY) + certificate_pem(ROOT) + pem(OTHER_KEY))

    assert checked(sign(NAME, DIGEST, SigningKey(OTHER_KEY)), both)
    assert checked(by_certificate(), both)

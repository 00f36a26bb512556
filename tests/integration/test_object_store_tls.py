# SPDX-License-Identifier: Apache-2.0
"""An S3 server over https whose certificate is of an authority that only SSL_CERT_FILE names, and
of another region than the usual: all three clients of S3 heed both, and without them the fault is
told as what it is."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from headrace.errors import Unavailable
from headrace.local.objectstore import S3Server
from headrace.local.ports import LOOPBACK, pick_ports
from headrace.local.process import running
from headrace_kit.objects import S3Settings, object_store

pytestmark = pytest.mark.integration

DAY = datetime.timedelta(days=1)
ANSWER_S_MAX = 60.0
REGION = "eu-central-1"

# By the kit's own client, by deltalake, and by pyarrow, as the services read and write.
CLIENTS = """
import sys
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from pydantic import SecretStr
from headrace_kit.delta_scans import arrow_dataset
from headrace_kit.objects import S3Settings, delta_storage_options, object_store, self_test
endpoint, access_key, secret_key, region = sys.argv[1:]
s3 = S3Settings(endpoint, access_key, SecretStr(secret_key), region)
self_test(object_store("s3://headrace/tls", s3))
options = delta_storage_options("s3://headrace/tls", s3)
write_deltalake("s3://headrace/tls/table", pa.table({"a": [1, 2]}), storage_options=options)
table = DeltaTable("s3://headrace/tls/table", storage_options=options)
print(arrow_dataset(table, options).to_table().num_rows)
"""


@dataclass(frozen=True)
class Listens:
    port: int

    def __call__(self, timeout_s: float) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.port), timeout_s).close()
        except OSError:
            return False
        return True


def certify(folder: Path) -> None:
    """`authority.pem`, and `server.pem` with `server.key`, which it has signed for loopback."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        for name in ("authority", "server")
    ]
    now = datetime.datetime.now(datetime.UTC)
    for key, name in zip(keys, names, strict=True):
        ours = name.rfc4514_string().removeprefix("CN=")
        certificate = (
            x509.CertificateBuilder(names[0], name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=key is keys[0], path_length=None), True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(LOOPBACK))]), False
            )
            .sign(keys[0], hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        (folder / f"{ours}.pem").write_bytes(pem)
    (folder / "server.key").write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certify(folder)
    return folder / "authority.pem"


@pytest.fixture(scope="module")
def s3(s3_server, authority, tmp_path_factory):
    folder, (port,) = tmp_path_factory.mktemp("s3"), pick_ports(1)
    server = S3Server(folder, port, s3_server.program, REGION)
    process = server.process()
    pair = {
        "VGW_CERT": str(authority.with_name("server.pem")),
        "VGW_KEY": str(authority.with_name("server.key")),
    }
    process = replace(
        process, environment={**process.environment, **pair}, ready=Listens(port), ports={}
    )
    with running(process, folder):
        endpoint = server.endpoint.replace("http://", "https://")
        yield S3Settings(endpoint, server.access_key, SecretStr(server.secret_key), REGION)


def test_every_client_heeds_the_region_and_the_authority_of_the_environment(s3, authority):
    told = (s3.endpoint, s3.access_key, s3.secret_key.get_secret_value(), REGION)
    done = subprocess.run(
        [sys.executable, "-c", CLIENTS, *told],
        env={**os.environ, "SSL_CERT_FILE": str(authority)},
        capture_output=True,
        text=True,
        timeout=ANSWER_S_MAX,
    )

    assert ("2\n", 0) == (done.stdout, done.returncode), done.stderr


def test_certificate_of_an_unknown_authority_is_told_with_what_to_do(s3):
    with pytest.raises(Unavailable, match="OBJECT_STORE_UNAVAILABLE") as refused:
        object_store("s3://headrace/tls", s3).get("a")

    assert "SSLCertVerificationError" == refused.value.metadata["error"]
    assert "its certificate is not trusted (" in refused.value.metadata["problem"]
    assert "SSL_CERT_FILE" in refused.value.metadata["problem"]


def test_server_without_tls_is_told_as_one(s3_server):
    endpoint = s3_server.endpoint.replace("http://", "https://")
    with pytest.raises(Unavailable, match="no TLS with it"):
        object_store("s3://headrace/p", S3Settings(endpoint, "key", SecretStr("secret"))).get("a")


def test_other_region_is_told_with_what_to_do(s3, authority, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    store = object_store("s3://headrace/tls", replace(s3, region="us-east-1"))
    with pytest.raises(Unavailable, match="another region than S3_REGION"):
        store.get("a")

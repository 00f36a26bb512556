# SPDX-License-Identifier: Apache-2.0
"""An S3 server on loopback: versitygw over a folder, built once, with random root credentials."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import Unavailable
from headrace.local.gotools import GoTool
from headrace.local.ports import LOOPBACK
from headrace.local.process import HttpReady, ProcessSpec
from headrace.local.secret import stored_secret
from headrace.local.settings import child_environment
from headrace.local.tools import ToolCache

VERSITYGW = GoTool("versitygw", "github.com/versity/versitygw", "cmd/versitygw", "v1.8.0", (1, 25))
REGION = "us-east-1"
ASK_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class S3Server:
    """A server whose objects outlive it in `data_dir`."""

    data_dir: Path
    port: int
    program: Path
    region: str = REGION

    @property
    def endpoint(self) -> str:
        """The URI that clients are given."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def access_key(self) -> str:
        """The root account's name, random as its secret."""
        return stored_secret(self.data_dir / "access-key")

    @property
    def secret_key(self) -> str:
        """The root account's secret."""
        return stored_secret(self.data_dir / "secret-key")

    def process(self) -> ProcessSpec:
        """How to run the server."""
        objects = self.data_dir / "objects"
        objects.mkdir(parents=True, exist_ok=True)
        options = ("--port", f"{LOOPBACK}:{self.port}", "--region", self.region)
        return ProcessSpec(
            name="s3",
            command=(
                *(str(self.program), *options, "--health", "/health", "--quiet"),
                *("posix", *self._where_metadata_goes(objects), str(objects)),
            ),
            environment=child_environment(
                {"ROOT_ACCESS_KEY_ID": self.access_key, "ROOT_SECRET_ACCESS_KEY": self.secret_key}
            ),
            ready=HttpReady(f"{self.endpoint}/health"),
            ports={"s3": self.port},
        )

    def make_bucket(self, name: str) -> None:
        """Makes a bucket on the running server; it may exist already."""
        try:
            done = subprocess.run(
                [
                    *(str(self.program), "admin", "--endpoint-url", self.endpoint, "create-bucket"),
                    *("--bucket", name, "--owner", self.access_key),
                ],
                env=child_environment(
                    {
                        "ADMIN_ACCESS_KEY_ID": self.access_key,
                        "ADMIN_SECRET_ACCESS_KEY": self.secret_key,
                    }
                ),
                capture_output=True,
                text=True,
                timeout=ASK_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired as err:
            said = f"no answer in {ASK_TIMEOUT_S:g} s"
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", bucket=name, said=said) from err
        if done.returncode != 0 and "BucketAlreadyOwnedByYou" not in done.stderr:
            raise Unavailable("OBJECT_STORE_UNAVAILABLE", bucket=name, said=done.stderr.strip())

    def _where_metadata_goes(self, objects: Path) -> tuple[str, ...]:
        """In extended attributes of the files, or beside them where the file system has none."""
        try:
            os.setxattr(objects, "user.headrace", b"")
        except OSError as err:
            if err.errno != errno.ENOTSUP:
                raise
            beside = self.data_dir / "metadata"
            beside.mkdir(exist_ok=True)
            return ("--sidecar", str(beside))
        return ()


def provide_versitygw(cache: ToolCache) -> Path:
    """The server's program, built at first use."""
    return VERSITYGW.provide(cache)

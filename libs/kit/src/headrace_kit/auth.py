# SPDX-License-Identifier: Apache-2.0
"""Bearer tokens at the doors (RFC 6750): each call but health shows one that permits it.

What is not said to be anything less needs all permissions, so that a method which somebody adds is
shut until it is said who may call it. Without a tokens file everybody may call: on loopback only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection
from prometheus_client import Counter

from headrace.errors import Denied
from headrace.tokens import ALL, READ, Caller, digest_of, read_tokens
from headrace_kit.telemetry import counter
from headrace_kit.watched_file import WatchedFile

OPEN_METHODS = f"/{health.SERVICE_NAME}/"
READS = re.compile("(Get|List|LookUp|Read|Resolve|Search|Diff|Download)[A-Z]")
SCHEME = "bearer"  # its case does not matter: RFC 7235
EVERYBODY = Caller("everybody", frozenset({ALL}))
"""Where there is no tokens file."""

_calling: ContextVar[Caller] = ContextVar("calling")


def calling() -> Caller:
    """Who makes the call that this thread works on.

    Raises LookupError in a thread that was started meanwhile: nobody is let in by mistake.
    """
    return _calling.get()


def open_to_all(method: str) -> bool:
    """Whether strangers may call it: health checks alone."""
    return method.startswith(OPEN_METHODS)


def work_for(caller: Caller) -> None:
    """The thread works on a call of this caller from now on."""
    _calling.set(caller)


class Guard:
    """Admits calls. `actions`: what the methods do that neither read nor need all permissions, by
    path (`/package.Service/Method`).

    The file is looked at again each second, see WatchedFile.
    """

    def __init__(
        self, service: str, tokens_file: Path | None, *, actions: Mapping[str, str] | None = None
    ) -> None:
        self._actions = dict(actions or {})
        self._denied = counter(service, "denied_calls_total", "What callers were denied.", "reason")
        self._by_digest: WatchedFile[dict[str, Caller]] | None = None
        if tokens_file is not None:
            self._by_digest = WatchedFile(service, "tokens_file", tokens_file, self._read)

    def admit(self, method: str, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Who calls. Raises Denied TOKEN_UNKNOWN, or ACTION_FORBIDDEN."""
        if self._by_digest is None or open_to_all(method):
            return EVERYBODY
        caller = self._by_digest.told().get(digest_of(_shown(metadata)))
        if caller is None:
            self._denied.labels("TOKEN_UNKNOWN").inc()
            raise Denied("TOKEN_UNKNOWN")
        caller.require(self.action_of(method))
        return caller

    def action_of(self, method: str) -> str:
        """What a caller must be permitted to do; `*` for what nobody opened."""
        return self._actions.get(method) or _action(method)

    def _read(self, file: Path) -> dict[str, Caller]:
        """By the digest of a token. Raises Invalid BAD_SETTING."""
        return {
            digest: _Counted(each.caller.name, each.caller.permissions, self._denied)
            for each in read_tokens(file).values()
            for digest in each.digests
        }


@dataclass(frozen=True, slots=True)
class _Counted(Caller):
    """What it is denied is counted, also where a servicer asks once it knows the name."""

    denied: Counter

    def require(self, action: str, name: str | None = None) -> None:
        try:
            Caller.require(self, action, name)
        except Denied as err:
            self.denied.labels(err.reason).inc()
            raise


def _shown(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            return token.strip() if scheme.lower() == SCHEME else ""
    return ""


def _action(method: str) -> str:
    service, _, name = method[1:].partition("/")
    reads = service == reflection.SERVICE_NAME or READS.match(name)
    return READ if reads else ALL

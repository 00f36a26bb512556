# SPDX-License-Identifier: Apache-2.0
"""Who may call the doors of the services: callers, the tokens they show, and what each may do.

A token is 256 random bits, so its sha256 can be kept in a file without a salt and compared by
looking it up: nobody finds a token to a digest, nor learns of one by the time that a look takes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.definition_types import NAME
from headrace.errors import Denied, Invalid
from headrace.whole_file import write_whole

TOKEN_BYTES = 32
TOKENS_BYTES_MAX = 1 << 20
DIGESTS_MAX = 2
"""Of one caller: the token in use, and the one before while programs are told of the new one."""
ALL = "*"
READ, LABEL, PEER = PLAIN = ("read", "label", "peer")
PUBLISH, PREDICT = NAMED = ("publish", "predict")
"""Actions on something that has a name: a stream, an endpoint."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PERMISSION = re.compile(rf"\*|{'|'.join(PLAIN)}|({'|'.join(NAMED)}):(\*|{NAME.pattern}\*?)")


@dataclass(frozen=True, slots=True)
class Caller:
    """A program or a person. A permission is one of PLAIN, `<action>:<name>`, or `*`: all.

    A name that ends in `*` means every name that begins so.
    """

    name: str
    permissions: frozenset[str]

    def may(self, action: str) -> bool:
        """Whether it may do this at all, to something."""
        return ALL in self.permissions or any(
            action == each.partition(":")[0] for each in self.permissions
        )

    def require(self, action: str, name: str | None = None) -> None:
        """Raises Denied ACTION_FORBIDDEN unless it may do this, to what has the name."""
        if name is None and not self.may(action):
            raise Denied("ACTION_FORBIDDEN", caller=self.name, action=action)
        if name is not None and not self.may_to(action, name):
            raise Denied("ACTION_FORBIDDEN", caller=self.name, action=action, name=name)

    def may_to(self, action: str, name: str) -> bool:
        """Whether it may do this to what has the name."""
        if ALL in self.permissions:
            return True
        wanted = f"{action}:{name}"
        return wanted in self.permissions or any(
            each.endswith("*") and wanted.startswith(each[:-1]) for each in self.permissions
        )


@dataclass(frozen=True, slots=True)
class KnownCaller:
    """A caller with the sha256 of its tokens, lower-case hex, the newest first."""

    caller: Caller
    digests: tuple[str, ...]


def digest_of(token: str) -> str:
    """The sha256 of a token, lower-case hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def read_tokens(path: Path) -> dict[str, KnownCaller]:
    """The callers of a file by name. Raises Invalid BAD_SETTING, which says what to mend."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o022:
                raise _wrong(path, "others than its owner may write it")
            raw = file.read(TOKENS_BYTES_MAX + 1)
    except OSError as err:
        raise _wrong(path, f"it cannot be read: {err.strerror}") from err
    if len(raw) > TOKENS_BYTES_MAX:
        raise _wrong(path, f"it holds more than {TOKENS_BYTES_MAX} bytes")
    try:
        told = json.loads(raw, object_pairs_hook=_once)
    except ValueError as err:
        raise _wrong(path, "it is no JSON, or names a caller twice") from err
    if not isinstance(told, dict):
        raise _wrong(path, "it is no JSON object of callers")
    known = {name: _known(path, name, entry) for name, entry in told.items()}
    digests = [digest for each in known.values() for digest in each.digests]
    if len(digests) != len(set(digests)):
        raise _wrong(path, "two callers have the same token")
    return known


def issue_token(path: Path, name: str, permissions: Iterable[str]) -> str:
    """Adds a caller to the file, which is made when absent; returns its token, kept nowhere.

    Raises Invalid BAD_REQUEST for a name that is there and for what is no name or permission.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with _changing(path) as known:
        if name in known:
            problem = f"{name} is there: headrace tokens rotate {name}, or permit {name}"
            raise Invalid("BAD_REQUEST", field="name", problem=problem)
        known[name] = _made(name, permissions, (digest_of(token),))
    return token


def rotate_token(path: Path, name: str) -> str:
    """A new token of a caller; the one before is good until the next rotation.

    Raises Invalid BAD_REQUEST for a name that is not there.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with _changing(path) as known:
        one = _named(known, name)
        digests = (digest_of(token), *one.digests)[:DIGESTS_MAX]
        known[name] = replace(one, digests=digests)
    return token


def permit_caller(path: Path, name: str, permissions: Iterable[str]) -> None:
    """A caller may do this from now on, and nothing else.

    Raises Invalid BAD_REQUEST for a name that is not there, and for what is no permission.
    """
    with _changing(path) as known:
        known[name] = _made(name, permissions, _named(known, name).digests)


def revoke_tokens(path: Path, name: str) -> None:
    """Takes a caller out of the file. Raises Invalid BAD_REQUEST for a name that is not there."""
    with _changing(path) as known:
        _named(known, name)
        del known[name]


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, KnownCaller]]:
    """The callers, to be changed and kept; one at a time, so that no change is lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = read_tokens(path) if path.exists() else {}
        yield known
        _write(path, known)


def _made(name: str, permissions: Iterable[str], digests: tuple[str, ...]) -> KnownCaller:
    allowed = sorted(set(permissions))
    if problem := _problem(name, {"may": allowed, "sha256": [*digests]}):
        raise Invalid("BAD_REQUEST", field="caller", problem=problem)
    return KnownCaller(Caller(name, frozenset(allowed)), digests)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(names) != len(set(names)):
        raise ValueError(names)
    return dict(pairs)


def _named(known: Mapping[str, KnownCaller], name: str) -> KnownCaller:
    if name not in known:
        problem = f"no caller has this name, there are: {', '.join(sorted(known)) or 'none'}"
        raise Invalid("BAD_REQUEST", field="name", problem=problem)
    return known[name]


def _known(path: Path, name: str, entry: Any) -> KnownCaller:
    if problem := _problem(name, entry):
        raise _wrong(path, f"{name[:128]}: {problem}")
    return KnownCaller(Caller(name, frozenset(entry["may"])), tuple(entry["sha256"]))


def _problem(name: str, entry: Any) -> str:
    """What is wrong with the entry of a caller; empty when nothing is."""
    if not NAME.fullmatch(name):
        return "a name is of a-z, 0-9, - and ."
    if not isinstance(entry, dict) or set(entry) != {"may", "sha256"}:
        return "it has exactly `may` and `sha256`"
    may, digests = entry["may"], entry["sha256"]
    if not (isinstance(may, list) and isinstance(digests, list)):
        return "`may` and `sha256` are lists"
    if wrong := [each for each in may if not _matches(_PERMISSION, each)]:
        forms = ", ".join([*PLAIN, *(f"{action}:NAME" for action in NAMED), ALL])
        return f"{str(wrong[0])[:128]} is no permission, these are: {forms}"
    if not (1 <= len(digests) <= DIGESTS_MAX and all(_matches(_DIGEST, d) for d in digests)):
        return f"`sha256` holds 1 to {DIGESTS_MAX} digests, lower-case hex"
    return ""


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _wrong(path: Path, problem: str) -> Invalid:
    return Invalid("BAD_SETTING", setting="tokens_file", path=path, problem=problem)


def _write(path: Path, known: Mapping[str, KnownCaller]) -> None:
    entries = {
        name: {"may": sorted(one.caller.permissions), "sha256": list(one.digests)}
        for name, one in sorted(known.items())
    }
    # Digests only, and containers read it as another user.
    write_whole(path, json.dumps(entries, indent=1) + "\n", mode=0o644)

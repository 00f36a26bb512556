# SPDX-License-Identifier: Apache-2.0
"""Secrets of the local servers: random, never a default, in files that only their owner reads."""

from __future__ import annotations

import secrets
from pathlib import Path

from headrace.whole_file import write_whole

SECRET_BYTES = 24


def stored_secret(path: Path) -> str:
    """The secret in the file, made at first use; letters, digits, `-` and `_` only."""
    if not path.exists():
        write_whole(path, secrets.token_urlsafe(SECRET_BYTES))
    return path.read_text(encoding="utf-8")

# SPDX-License-Identifier: Apache-2.0
"""Secrets of the local servers: random, never a default, in files that only their owner reads."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path

SECRET_BYTES = 24


def stored_secret(path: Path) -> str:
    """The secret in the file, made at first use; letters, digits, `-` and `_` only."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # Temporary files are made with mode 0600; the rename makes it appear whole.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES))
        Path(file.name).replace(path)
    return path.read_text(encoding="utf-8")

# SPDX-License-Identifier: Apache-2.0
"""The only file of the local runtime that reads the environment: what child processes inherit."""

from __future__ import annotations

import os
from collections.abc import Mapping


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of this process, with `extra` on top."""
    return {**os.environ, **(extra or {})}

# SPDX-License-Identifier: Apache-2.0
"""How the own tables of datasets are named: `NAME/NUMBER/BEGAN-RANDOM`.

Each writer has a table to itself, and the revision of the manifest that is stored first says whose
counts. Two of one table would store the rows twice (Delta takes two first commits that append), or
let back in what the other had taken out. `NAME/NUMBER` alone is one of a version before.
"""

from __future__ import annotations

import re
import secrets

from headrace_ingest.domain.datasets import Manifest

# Nobody writes a table for so long: a request has five minutes.
ABANDONED_US = 24 * 3_600 * 1_000_000
_OWN = re.compile(r"([^/]+/[^/]+)/(\d+)-[0-9a-f]{16}")


def own_copy(manifest: Manifest, now_us: int) -> str:
    """A table that nobody else writes."""
    return f"{dataset_of(manifest)}/{now_us}-{secrets.token_hex(8)}"


def dataset_of(manifest: Manifest) -> str:
    return f"{manifest.name}/{manifest.number}"


def copy_in(path: str) -> str:
    """The table whose file lies there; empty where none can."""
    parts = path.split("/")
    own = "/".join(parts[:3])
    return own if _OWN.fullmatch(own) else "/".join(parts[:2]) if len(parts) > 2 else ""


def dataset_in(copy: str) -> str:
    """Whose table it is, as `dataset_of` names it."""
    return "/".join(copy.split("/")[:2])


def abandoned(copy: str, used: str, now_us: int) -> bool:
    """Whether it is of a writer that ended, or lost to another, where `used` is the dataset's.

    One of a version before may be used yet as long as no other one is.
    """
    own = _OWN.fullmatch(copy)
    if own is None:
        return used not in ("", copy)
    return copy != used and int(own[2]) + ABANDONED_US < now_us

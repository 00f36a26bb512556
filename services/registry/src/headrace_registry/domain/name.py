# SPDX-License-Identifier: Apache-2.0
"""What may name a thing in the registry; everything else is refused before it is looked up."""

from __future__ import annotations

import re

from headrace.definition_types import NAME
from headrace.errors import Invalid

DIGEST = re.compile(r"[0-9a-f]{64}")
ID_LENGTH_MAX = 128
TEXT_LENGTH_MAX = 1_000


def check_name(field: str, value: str) -> None:
    """Raises Invalid BAD_NAME."""
    if not NAME.fullmatch(value):
        raise Invalid("BAD_NAME", field=field, value=value[:ID_LENGTH_MAX])


def check_alias(value: str) -> None:
    """Raises Invalid BAD_NAME: `latest` and numbers would read as versions."""
    check_name("alias", value)
    if value == "latest" or value.isdecimal():
        problem = "it would read as a version: numbers and latest are no aliases"
        raise Invalid("BAD_NAME", field="alias", value=value, problem=problem)


def check_digest(value: str) -> None:
    """Raises Invalid BAD_REQUEST unless it is a sha256 in lower-case hex."""
    if not DIGEST.fullmatch(value):
        raise Invalid("BAD_REQUEST", field="digest", problem="is not a sha256 in lower-case hex")


def check_id(field: str, value: str) -> None:
    """Raises Invalid BAD_REQUEST unless it is printable ASCII of 1 to 128 characters."""
    if not (0 < len(value) <= ID_LENGTH_MAX and value.isascii() and value.isprintable()):
        problem = f"must be 1 to {ID_LENGTH_MAX} printable characters"
        raise Invalid("BAD_REQUEST", field=field, problem=problem)


def check_text(field: str, value: str) -> None:
    """Raises Invalid BAD_REQUEST unless it is at most 1,000 printable characters."""
    if len(value) > TEXT_LENGTH_MAX or not value.isprintable():
        problem = f"must be one line of at most {TEXT_LENGTH_MAX} printable characters"
        raise Invalid("BAD_REQUEST", field=field, problem=problem)

# SPDX-License-Identifier: Apache-2.0
"""How a version of a model is named, everywhere: `models:/delay@champion` or `models:/delay/7`.

The form is MLflow's; people may leave out `models:/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.definition_types import NAME
from headrace.errors import Invalid

REFERENCE = re.compile(rf"(?:models:/)?({NAME.pattern})(?:/([1-9]\d{{0,9}})|@({NAME.pattern}))")
VERSION_MAX = 2**31 - 1
SHOWN_MAX = 300


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A version by its number, or by an alias when the number is 0."""

    model: str
    version: int
    alias: str

    def __str__(self) -> str:
        return f"models:/{self.model}" + (f"@{self.alias}" if self.alias else f"/{self.version}")


def parse_reference(text: str) -> ModelReference:
    """Raises Invalid BAD_NAME."""
    found = REFERENCE.fullmatch(text)
    if found is None or int(found[2] or 0) > VERSION_MAX:
        problem = "is neither models:/NAME@ALIAS nor models:/NAME/VERSION"
        raise Invalid("BAD_NAME", reference=text[:SHOWN_MAX], problem=problem)
    return ModelReference(found[1], int(found[2] or 0), found[3] or "")


def version_of(model: str, version: int | str) -> ModelReference:
    """A version of this model, by its number or by a whole reference.

    Raises Invalid BAD_NAME, BAD_REQUEST for a reference to another model.
    """
    text = str(version)
    reference = parse_reference(f"{model}/{text}" if text.lstrip("-").isdecimal() else text)
    if reference.model != model:
        raise Invalid(
            "BAD_REQUEST", field="version", problem=f"{text[:SHOWN_MAX]} is not of {model}"
        )
    return reference

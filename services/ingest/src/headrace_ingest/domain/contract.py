# SPDX-License-Identifier: Apache-2.0
"""A stream's data contract as it was applied."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.application import Stream


@dataclass(frozen=True, slots=True)
class Contract:
    """What the records of a stream must look like; `version` grows with each change of it."""

    stream: Stream
    version: int

    @property
    def name(self) -> str:
        return self.stream.name

    @property
    def schema_id(self) -> str:
        """What `ce_dataschema` says on a record of this contract."""
        return f"{self.stream.name}/{self.version}"

    @property
    def private_columns(self) -> tuple[str, ...]:
        """Columns that name one entity or event: their values stay out of what is kept for ever."""
        return tuple(sorted({self.stream.key, self.stream.id}))

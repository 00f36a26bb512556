# SPDX-License-Identifier: Apache-2.0
"""What was found when a model's file was looked through and run once, under limits.

A file that could harm whoever loads it is refused when it is uploaded. One that loads, but answers
NaN or each time otherwise, is kept: its findings are evidence, and its gate fails.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace_registry.domain.signature import Signature


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked for, and a sentence about it."""

    passed: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The file may be stored; `findings` go into the gate of each of its versions.

    `latency_ms`: the median of its runs on golden inputs; None where it did not run on them.
    """

    signature: Signature
    findings: tuple[Finding, ...]
    latency_ms: float | None = None

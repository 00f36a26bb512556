# SPDX-License-Identifier: Apache-2.0
"""Up to which moment the archive of a stream holds all that was known, and what it waits for.

A raw partition has passed a moment when something known later is stored of it. One that holds all
that was published and got nothing for five minutes is quiet: it holds back nobody, for nothing of
before is expected any more. Who asks for what had been published waits for neither, but only until
all of it is stored, up to where the topic ended when it was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from headrace.errors import Invalid
from headrace_kit.clock import CLOCK_SKEW_US

QUIET_US = 300 * 1_000_000


@dataclass(frozen=True, slots=True)
class StoredPartition:
    """A raw partition that ends at `end`, of which the records before `offset` are accounted for.

    `known_us`: the newest known time that is stored. `accounted_us`: when the offset last moved, by
    ingest's clock; None where an older version wrote it, which never counts as quiet.
    """

    offset: int
    end: int
    known_us: int | None
    accounted_us: int | None

    @property
    def left(self) -> int:
        """How many published records are not accounted for."""
        return max(0, self.end - self.offset)

    def quiet(self, asked_us: int) -> bool:
        idle = self.accounted_us is not None and asked_us - self.accounted_us >= QUIET_US
        return idle and not self.left

    def passed_us(self, asked_us: int) -> int | None:
        """The last moment that it has passed; None where it has nothing to say."""
        if self.quiet(asked_us):
            return asked_us
        if self.known_us is not None:
            return self.known_us - 1
        return -1 if self.left else None


@dataclass(frozen=True, slots=True)
class StreamReach:
    """A stream's archive, and where its raw topic ended when Kafka was asked at `asked_us`."""

    stream: str
    asked_us: int
    partitions: Mapping[int, StoredPartition]

    @property
    def known_to_us(self) -> int:
        """The last moment of which all that was known is stored, or -1."""
        passed = [each.passed_us(self.asked_us) for each in self.partitions.values()]
        return min((each for each in passed if each is not None), default=-1)

    @property
    def newest_us(self) -> int:
        """The newest known time of what is stored, or -1."""
        known = (each.known_us for each in self.partitions.values())
        return max((each for each in known if each is not None), default=-1)

    def holds(self, known_until_us: int) -> bool:
        return self.known_to_us >= known_until_us

    def holds_published(self, asked: StreamReach) -> bool:
        """Whether all is accounted for that was published when it was asked before."""
        return all(
            number in self.partitions and self.partitions[number].offset >= each.end
            for number, each in asked.partitions.items()
        )

    @property
    def waits_for(self) -> str:
        """What holds it back, for people."""
        if left := sum(each.left for each in self.partitions.values()):
            return f"{self.stream}: {left} published records are not archived yet"
        if self.newest_us < 0:
            return f"{self.stream}: nothing was published yet"
        return (
            f"{self.stream}: complete up to {moment_text(self.known_to_us)}, until a later record"
            " comes or none has come for five minutes"
        )


def moment_text(moment_us: int) -> str:
    try:
        return f"{datetime.fromtimestamp(moment_us // 1_000_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return f"{moment_us} us"


def check_not_to_come(
    field: str, moment_us: int, now_us: int, *, skew_us: int = CLOCK_SKEW_US
) -> None:
    """Raises Invalid BAD_REQUEST for a moment of which nobody can know all yet.

    `skew_us`: how far the clock of who asks may be ahead.
    """
    if moment_us > now_us + skew_us:
        problem = f"{moment_text(moment_us)} is still to come"
        raise Invalid("BAD_REQUEST", field=field, problem=problem)

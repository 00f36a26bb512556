# SPDX-License-Identifier: Apache-2.0
"""The client's way to what ingest set aside: list, show, and send again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grpc

from headrace.ingest.v1 import dead_letter_service_pb2 as pb
from headrace.ingest.v1 import dead_letter_service_pb2_grpc
from headrace.rpc import call, error_of, pages

READ_TIMEOUT_S = 30.0
REDRIVE_TIMEOUT_S = 295.0
PAGE_SIZE = 500


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which dead letters: empty or 0 selects all; milliseconds of Kafka's time of the letter."""

    stream: str = ""
    reason: str = ""
    since_ms: int = 0
    until_ms: int = 0

    def message(self) -> pb.DeadLetterFilter:
        return pb.DeadLetterFilter(
            stream=self.stream,
            reason=self.reason,
            since_ms=self.since_ms,
            until_ms=self.until_ms,
        )


class DeadLetters:
    """DeadLetterService of an ingest process."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = dead_letter_service_pb2_grpc.DeadLetterServiceStub(channel)

    def page(
        self,
        letters: LetterFilter,
        *,
        size: int = 50,
        token: str = "",
        with_redriven: bool = False,
    ) -> pb.ListDeadLettersResponse:
        """One page, with the counts of all letters from its beginning on."""
        request = pb.ListDeadLettersRequest(
            filter=letters.message(), page_size=size, page_token=token, with_redriven=with_redriven
        )
        return call(self._stub.ListDeadLetters, request, timeout_s=READ_TIMEOUT_S, retries_max=2)

    def __call__(self, letters: LetterFilter) -> Iterator[pb.DeadLetter]:
        """All that wait, page after page."""
        request = pb.ListDeadLettersRequest(filter=letters.message(), page_size=PAGE_SIZE)
        found = pages(self._stub.ListDeadLetters, request, timeout_s=READ_TIMEOUT_S, retries_max=2)
        for page in found:
            yield from page.letters

    def get(self, letter_id: str, *, value_bytes_max: int = 0) -> pb.GetDeadLetterResponse:
        """Raises NotFound DEAD_LETTER_UNKNOWN."""
        request = pb.GetDeadLetterRequest(id=letter_id, value_bytes_max=value_bytes_max)
        return call(self._stub.GetDeadLetter, request, timeout_s=READ_TIMEOUT_S, retries_max=2)

    def redrive(
        self,
        letters: LetterFilter,
        *,
        ids: Sequence[str] = (),
        dry_run: bool = False,
        letters_max: int = 0,
    ) -> Iterator[pb.RedriveDeadLettersResponse]:
        """Sends them again and tells the progress; the last answer is the whole.

        Raises Invalid BAD_REQUEST when neither a stream nor ids are named. After any error it may
        be asked again: what was sent is not sent twice, or counts as a repeat.
        """
        request = pb.RedriveDeadLettersRequest(
            filter=letters.message(), ids=ids, dry_run=dry_run, letters_max=letters_max
        )
        try:
            yield from self._stub.RedriveDeadLetters(request, timeout=REDRIVE_TIMEOUT_S)
        except grpc.RpcError as err:
            raise error_of(err) from err

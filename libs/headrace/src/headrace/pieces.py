# SPDX-License-Identifier: Apache-2.0
"""Long bytes in messages: pieces that fit one, and pieces as the file that they were."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

PIECE_BYTES_MAX = 1 << 20


def pieces_of(sink: io.BytesIO) -> Iterator[bytes]:
    """What was written so far, in pieces; the sink is empty again."""
    written = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    for first in range(0, len(written), PIECE_BYTES_MAX):
        yield written[first : first + PIECE_BYTES_MAX]


class PieceFile(io.RawIOBase):
    """A file, read once from its begin to its end, of bytes that come piece by piece."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__()
        self._pieces, self._left = iter(pieces), memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """Exactly so many bytes, fewer at the end only."""
        parts, wanted = [], -1 if size is None else size
        while wanted and (self._left or self._next()):
            part = self._left if wanted < 0 else self._left[:wanted]
            self._left = self._left[len(part) :]
            wanted -= len(part) if wanted > 0 else 0
            parts.append(part)
        return b"".join(parts)

    def drain(self) -> None:
        """Take what lies behind the end of what was read."""
        while self._next():
            self._left = memoryview(b"")

    def _next(self) -> bool:
        """Whether there is one more piece; an empty one is none."""
        self._left = memoryview(next(filter(None, self._pieces), b""))
        return bool(self._left)

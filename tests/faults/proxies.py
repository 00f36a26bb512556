# SPDX-License-Identifier: Apache-2.0
"""A TCP proxy between a service and one server, which breaks the link as a test says.

It knows as much of Kafka's frames (size, api key, correlation id) and of HTTP/1 (the first line of
a request) as it needs to hold or to drop one kind of reply. It runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

PIECE_BYTES = 1 << 16
START_S_MAX = 10.0
FRAME = struct.Struct(">i")
REQUEST = struct.Struct(">hhi")
PRODUCE = 0
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class Faults:
    """What is broken now; a test may change it at any time."""

    cut: bool = False  # no connection is taken, and none stays
    swallow_requests: bool = False  # half-open: what the client says goes nowhere
    swallow_replies: bool = False  # one-way: the server is heard no more
    produce_replies_s: float = 0.0  # how long the broker's acknowledgements are held
    unavailable: bool = False  # the S3 server answers 503
    drop_reply_to: re.Pattern[bytes] | None = None  # the next request like this is done, unanswered
    dropped: int = 0
    hold_request: re.Pattern[bytes] | None = None  # a request like this does not arrive
    held: int = 0


@dataclass(eq=False)
class _Link:
    """One connection: its Kafka requests under way by correlation id, its HTTP request's line."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    api_by_correlation: dict[int, int] = field(default_factory=dict)
    drop_next_reply: bool = False

    def close(self) -> None:
        for end in (self.client, self.server):
            end.transport.abort()


class Proxy:
    """Listens on `port` and speaks to `target_port`, both on loopback."""

    def __init__(self, port: int, target_port: int, *, kafka: bool) -> None:
        self.port, self._target_port, self._kafka = port, target_port, kafka
        self.faults = Faults()
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._accept, "127.0.0.1", self.port))

    def stop(self) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Every connection breaks, and none is made until `mend`."""
        self.faults.cut = True
        self._do(self._break())

    def mend(self) -> None:
        """All is well again; half-dead connections break, as when a link comes back."""
        self.faults = Faults()
        self._do(self._break())

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(START_S_MAX)

    async def _break(self) -> None:
        for link in list(self._links):
            link.close()

    async def _end(self) -> None:
        self._server.close()
        await self._break()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._serve(reader, writer)
        writer.transport.abort()
        self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.faults.cut:
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._target_port)
        link = _Link(writer, to_server)
        self._links.add(link)
        up = self._kafka_requests if self._kafka else self._http_requests
        down = self._kafka_replies if self._kafka else self._http_replies
        both = [asyncio.ensure_future(each) for each in (up(reader, link), down(from_server, link))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            link.close()
            self._links.discard(link)
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _kafka_requests(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while True:
            frame = await _frame(reader)
            api, _, correlation = REQUEST.unpack_from(frame)
            link.api_by_correlation[correlation] = api
            if not self.faults.swallow_requests:
                link.server.write(FRAME.pack(len(frame)) + frame)
                await link.server.drain()

    async def _kafka_replies(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while True:
            frame = await _frame(reader)
            (correlation,) = FRAME.unpack_from(frame)
            api = link.api_by_correlation.pop(correlation, None)
            if api == PRODUCE and self.faults.produce_replies_s:
                await asyncio.sleep(self.faults.produce_replies_s)
            if not self.faults.swallow_replies:
                link.client.write(FRAME.pack(len(frame)) + frame)
                await link.client.drain()

    async def _http_requests(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while piece := await reader.read(PIECE_BYTES):
            if self.faults.unavailable:
                link.client.write(UNAVAILABLE)
                await link.client.drain()
                return
            if (held := self.faults.hold_request) is not None and held.match(piece):
                self.faults.held += 1
                while await reader.read(PIECE_BYTES):
                    pass
                return
            wanted = self.faults.drop_reply_to
            if wanted is not None and wanted.match(piece):
                link.drop_next_reply = True
                self.faults.drop_reply_to = None
            link.server.write(piece)
            await link.server.drain()

    async def _http_replies(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while piece := await reader.read(PIECE_BYTES):
            if link.drop_next_reply:
                self.faults.dropped += 1
                return
            if not self.faults.swallow_replies:
                link.client.write(piece)
                await link.client.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = FRAME.unpack(await reader.readexactly(FRAME.size))
    return await reader.readexactly(size)

"""An HTTP proxy on loopback that does to requests what networks and overloaded stores do.

Tests run it in a thread; `fault_proxy.py UPSTREAM LATENCY` is a process that prints its port.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from yarl import URL

HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "date", "server"}
ERRORS = {500: "InternalError", 503: "SlowDown", 403: "AccessDenied"}
DRIP_S = 0.2  # seconds between single bytes


@dataclass
class Fault:
    """One kind of damage to the next `times` requests of a method whose path matches."""

    kind: str
    """403, 500 or 503; or, of an answer: cut (short of its Content-Length), reset (in mid-body),
    flip (a bit), drip (byte by byte), silence (none at all); or spoil: flip a bit of the request"""
    times: int = 1
    method: str = "GET"
    path: str = ""

    def strikes(self, method: str, path: str) -> bool:
        """Whether it strikes this request, which then counts."""
        if not self.times or method != self.method or not re.search(self.path, path):
            return False
        self.times -= 1
        return True


@dataclass
class FaultProxy:
    """Passes requests on to `upstream`, `latency` seconds late, but for its `faults`."""

    upstream: int
    """Port on loopback"""
    port: int = 0
    """Its own, known while it runs"""
    latency: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    """Method and path of all so far"""

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> web.AppRunner:
        """Listen, on the same port as before if there was one."""
        self._client = aiohttp.ClientSession(
            auto_decompress=False, skip_auto_headers=("User-Agent", "Accept", "Content-Type")
        )
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        return runner

    async def stop(self, runner: web.AppRunner) -> None:
        """Close all connections; new ones are refused."""
        await runner.cleanup()
        await self._client.close()

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        """Serve from a thread meanwhile."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="fault proxy")
        thread.start()
        try:
            runner = asyncio.run_coroutine_threadsafe(self.start(), loop).result()
            try:
                yield self
            finally:
                asyncio.run_coroutine_threadsafe(self.stop(runner), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        await asyncio.sleep(self.latency)
        struck = (f.kind for f in self.faults if f.strikes(request.method, request.path))
        kind = next(struck, "")
        body = await request.read()
        if kind.isdigit():
            code = ERRORS[int(kind)]
            text = f"<Error><Code>{code}</Code><Message>injected</Message></Error>"
            return web.Response(status=int(kind), text=text, content_type="application/xml")
        if kind == "silence":
            await asyncio.sleep(3600)
        if kind == "spoil":
            body = _flip(body)
        target = URL(f"http://127.0.0.1:{self.upstream}{request.raw_path}", encoded=True)
        async with self._client.request(
            request.method, target, headers=_end_to_end(request.headers), data=body,
            allow_redirects=False,
        ) as answer:  # fmt: skip
            content = await answer.read()
            response = web.StreamResponse(status=answer.status, headers=_end_to_end(answer.headers))
        if request.method != "HEAD":
            response.content_length = len(content)
        await response.prepare(request)
        await self._send(request, response, content, kind)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, content: bytes, kind: str
    ) -> None:
        assert request.transport is not None
        if kind == "drip":
            for byte in content:
                await response.write(bytes([byte]))
                await asyncio.sleep(DRIP_S)
        elif kind in ("cut", "reset"):
            await response.write(content[: len(content) // 2])
            if kind == "reset":  # closing a socket that does not linger sends RST
                raw: socket.socket = request.transport.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                request.transport.abort()
            request.transport.close()
        else:
            await response.write(_flip(content) if kind == "flip" else content)
            await response.write_eof()


def _end_to_end(headers: aiohttp.typedefs.LooseHeaders) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in HOP]


def _flip(data: bytes) -> bytes:
    """The same with one bit in the middle inverted."""
    damaged = bytearray(data)
    damaged[len(damaged) // 2] ^= 1
    return bytes(damaged)


async def main(upstream: int, latency: float) -> None:
    """Serve until killed."""
    proxy = FaultProxy(upstream, latency=latency)
    await proxy.start()
    print(proxy.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))

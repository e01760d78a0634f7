"""A server scripted byte by byte, and our client for it. It is a fake: no real server sends these bytes."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import httpx

from gateway.transport import Client, Transport

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
TLS = httpx.create_ssl_context(trust_env=False)

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """The port of one that lets no connection come about any more."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):  # what does not fit in the backlog is not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


class Server:
    """Answers each request of a connection with the next of the scripts; keeps count of connections."""

    def __init__(self, *answers: bytes, then_close: bool = False) -> None:
        self.answers = list(answers)
        self.then_close = then_close
        self.requests: list[bytes] = []
        self.connections = self.open = 0
        self.port = 0
        self.left = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        try:
            while self.answers or not self.then_close:
                await self._exchange(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self.left.set()
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
        self.requests.append(head + await reader.readexactly(length))
        while not self.go.is_set():
            if reader.at_eof() or reader.exception():
                raise ConnectionResetError
            await asyncio.sleep(0.01)
        answer = self.answers.pop(0) if len(self.answers) > 1 or self.then_close else self.answers[0]
        writer.write(answer)
        await writer.drain()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def serving(server: Serve) -> AsyncIterator[str]:
    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/v1/chat"
    finally:
        listener.close()
        if isinstance(server, Server):
            await server.end()


def client(max_connections: int = 10, idle_s: float = 5.0, **timeouts: float) -> Client:
    timeout = httpx.Timeout(5.0, **timeouts)
    return Client(transport=Transport(TLS, max_connections, idle_s), timeout=timeout, trust_env=False)


async def post(open_client: Client, url: str, body: bytes = b"{}", **given) -> httpx.Response:
    return await open_client.post(url, content=body, headers={"x-a": "b"}, **given)


def chunked(*chunks: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"

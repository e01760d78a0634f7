"""Our transport's bounds: waits, connections, memory, and what cancelling leaves behind."""

import asyncio

import httpx
import pytest

from gateway.connection import HIGH_WATER
from gateway.transport import Client
from tests.byte_server import OK, Server, chunked, client, full_listener, post, serving


async def test_the_wait_for_an_answer_is_bounded():
    server = Server(OK)
    server.go.clear()
    async with serving(server) as url, client(read=0.05) as c:
        with pytest.raises(httpx.ReadTimeout) as raised:
            await post(c, url)
        assert isinstance(raised.value.__cause__, TimeoutError)
        await asyncio.wait_for(server.left.wait(), 30)


async def test_the_wait_for_the_next_bytes_is_bounded_and_not_the_whole_answer():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(6):
            await asyncio.sleep(0.05)
            writer.write(b"1\r\na\r\n")
        await asyncio.sleep(5)

    async with serving(serve) as url, client(read=0.2) as c:
        request = c.build_request("POST", url, content=b"{}")
        answer = await c.send(request, stream=True)
        seen = b""
        with pytest.raises(httpx.ReadTimeout):
            async for chunk in answer.aiter_raw():
                seen += chunk
        await answer.aclose()
    assert seen == b"a" * 6


async def test_a_shorter_timeout_than_the_last_request_s_is_kept():
    server = Server(OK)
    async with serving(server) as url, client() as c:
        await post(c, url, timeout=httpx.Timeout(60))
        server.go.clear()
        with pytest.raises(httpx.ReadTimeout):
            await asyncio.wait_for(post(c, url, timeout=httpx.Timeout(0.05)), 30)


async def test_the_wait_for_a_connection_is_bounded():
    with full_listener() as port:
        async with client(connect=0.05) as c:
            with pytest.raises(httpx.ConnectTimeout):
                await post(c, f"http://127.0.0.1:{port}/v1")


async def test_a_refused_connection_is_a_connect_error():
    async with serving(Server(OK)) as url:
        pass
    async with client() as c:
        with pytest.raises(httpx.ConnectError):
            await post(c, url)


async def test_a_request_that_is_not_taken_is_bounded():
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue]
        await asyncio.sleep(10)

    async with serving(serve) as url, client(write=0.1) as c:
        with pytest.raises(httpx.WriteTimeout):
            await post(c, url, b"x" * 20_000_000)


async def test_another_protocol_than_http_is_refused():
    async with client() as c:
        with pytest.raises(httpx.UnsupportedProtocol):
            await post(c, "ftp://127.0.0.1/")


async def test_those_who_wait_for_a_connection_get_it_first_come_first_served():
    server = Server(OK)
    server.go.clear()
    order: list[int] = []

    async def ask(c: Client, url: str, number: int) -> None:
        await post(c, url)
        order.append(number)

    async with serving(server) as url, client(max_connections=2) as c:
        asked = [asyncio.create_task(ask(c, url, number)) for number in range(8)]
        await asyncio.sleep(0.1)
        assert server.connections == 2
        server.go.set()
        await asyncio.gather(*asked)
    assert [number // 2 for number in order] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert server.connections == 2


async def test_the_wait_for_a_free_connection_is_bounded_and_leaves_nothing_behind():
    server = Server(OK)
    server.go.clear()
    async with serving(server) as url, client(max_connections=1, pool=0.05) as c:
        first = asyncio.create_task(post(c, url))
        await asyncio.sleep(0.05)
        with pytest.raises(httpx.PoolTimeout):
            await post(c, url)
        server.go.set()
        assert (await first).content == b"ok"
        assert (await post(c, url)).content == b"ok"


async def test_a_waiter_that_gives_up_passes_its_turn_on():
    server = Server(OK)
    server.go.clear()
    async with serving(server) as url, client(max_connections=1) as c:
        first, second, third = (asyncio.create_task(post(c, url)) for _ in range(3))
        await asyncio.sleep(0.05)
        second.cancel()
        server.go.set()
        assert (await first).content == b"ok"
        assert (await asyncio.wait_for(third, 30)).content == b"ok"


async def test_a_failed_connection_gives_its_place_back():
    async with serving(Server(OK)) as url:
        pass
    async with client(max_connections=1) as c:
        for _ in range(3):
            with pytest.raises(httpx.ConnectError):
                await post(c, url)


async def test_a_cancelled_request_closes_its_connection_and_frees_its_place():
    server = Server(OK)
    server.go.clear()
    async with serving(server) as url, client(max_connections=1) as c:
        asked = asyncio.create_task(post(c, url))
        await asyncio.sleep(0.05)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.wait_for(server.left.wait(), 30)
        server.go.set()
        assert (await post(c, url)).content == b"ok"


async def test_a_stream_that_is_left_in_the_middle_closes_its_connection():
    server = Server(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")
    async with serving(server) as url, client(max_connections=1) as c:
        answer = await c.send(c.build_request("POST", url, content=b"{}"), stream=True)
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"a"
        await answer.aclose()
        await asyncio.wait_for(server.left.wait(), 30)


async def test_a_stream_that_is_read_to_its_end_gives_its_connection_back():
    server = Server(chunked(b"a", b"b"))
    async with serving(server) as url, client(max_connections=1) as c:
        for _ in range(3):
            answer = await c.send(c.build_request("POST", url, content=b"{}"), stream=True)
            assert b"".join([chunk async for chunk in answer.aiter_raw()]) == b"ab"
            await answer.aclose()
    assert server.connections == 1


async def test_a_slow_reader_stops_the_upstream_before_memory_grows():
    sent = 0
    piece = b"x" * 65_536

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (1000 * len(piece)))
        for _ in range(1000):
            writer.write(piece)
            await writer.drain()
            sent += len(piece)

    async with serving(serve) as url, client() as c:
        answer = await c.send(c.build_request("POST", url, content=b"{}"), stream=True)
        await asyncio.sleep(0.3)
        # the kernel's buffers at both ends, and ours
        assert sent < 20_000_000 + HIGH_WATER
        total = 0
        async for chunk in answer.aiter_raw():
            total += len(chunk)
        await answer.aclose()
    assert total == 1000 * len(piece)


async def test_thousands_of_cancelled_requests_leave_nothing_open():
    server = Server(OK)
    server.go.clear()
    async with serving(server) as url, client(max_connections=50) as c:
        for _ in range(20):
            asked = [asyncio.create_task(post(c, url)) for _ in range(100)]
            await asyncio.sleep(0.01)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        server.go.set()
        assert (await asyncio.wait_for(post(c, url), 30)).content == b"ok"
        for _ in range(100):
            if server.open == 1:
                break
            await asyncio.sleep(0.05)
        assert server.open == 1

"""Our transport under httpx's API: what it sends, and how it reads any answer."""

import asyncio
import ssl
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.connection import MAX_HEAD_BYTES
from gateway.transport import Client, Transport
from tests.byte_server import OK, TLS, Server, chunked, client, post, serving


async def test_a_request_arrives_as_it_was_built_and_its_answer_comes_back():
    server = Server(b"HTTP/1.1 201 Created\r\nX-Seen: yes\r\ncontent-length: 4\r\n\r\nbody")
    async with serving(server) as url, client() as c:
        answer = await post(c, url, b'{"a":1}')
    host = url.split("/")[2].encode()
    assert server.requests == [
        b"POST /v1/chat HTTP/1.1\r\nhost: " + host + b'\r\ncontent-length: 7\r\nx-a: b\r\n\r\n{"a":1}'
    ]
    assert (answer.status_code, answer.content, answer.headers["x-seen"]) == (201, b"body", "yes")


async def test_the_transport_serves_httpx_s_own_client_too():
    server = Server(chunked(b"a", b"b"))
    async with serving(server) as url, httpx.AsyncClient(transport=Transport(TLS, 10, 5.0)) as c:
        answer = await c.post(url, json={"q": 1}, params={"p": "1"})
        assert answer.text == "ab"
        assert (await c.get(url)).text == "ab"
    assert server.requests[0].startswith(b"POST /v1/chat?p=1 HTTP/1.1\r\n")
    assert server.connections == 1


async def test_a_connection_is_kept_and_used_again():
    server = Server(OK)
    async with serving(server) as url, client() as c:
        for _ in range(5):
            assert (await post(c, url)).content == b"ok"
    assert server.connections == 1


async def test_an_idle_connection_is_closed_after_its_time():
    server = Server(OK)
    async with serving(server) as url, client(idle_s=0.05) as c:
        await post(c, url)
        await asyncio.wait_for(server.left.wait(), 30)
        await post(c, url)
    assert server.connections == 2


async def test_a_connection_that_the_server_wants_closed_is_not_used_again():
    server = Server(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok")
    async with serving(server) as url, client() as c:
        await post(c, url)
        await post(c, url)
    assert server.connections == 2


async def test_a_kept_connection_that_closes_without_a_byte_is_tried_again_once_on_a_new_one():
    requests: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # the first connection answers once and closes when it is asked again
        number = len(requests)
        requests.append(0)
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n{}")
        requests[number] += 1
        writer.close()

    async with serving(serve) as url, client() as c:
        assert (await post(c, url)).content == b"ok"
        assert (await post(c, url)).content == b"ok"
        assert requests == [1, 0]


async def test_a_new_connection_that_closes_without_a_byte_is_an_error():
    async with serving(Server(b"", then_close=True)) as url, client() as c:
        with pytest.raises(httpx.ReadError):
            await post(c, url)


async def test_a_kept_connection_that_breaks_after_a_byte_is_not_tried_again():
    server = Server(OK, b"HTTP/1.1 200", then_close=True)
    async with serving(server) as url, client() as c:
        await post(c, url)
        with pytest.raises(httpx.ReadError):
            await post(c, url)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", b"", id="204 has no body"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok", id="100 is followed by the answer"),
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK, b"ok", id="103 too"),
        pytest.param(chunked(b"one", b"two"), b"onetwo", id="chunked"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a=b;c\r\nok\r\n0\r\n\r\n", b"ok", id="extensions"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n",
            b"ok",
            id="trailers",
        ),
    ],
)  # fmt: skip
async def test_every_way_to_end_a_body_leaves_the_connection_usable(answer: bytes, body: bytes):
    server = Server(answer, OK)
    async with serving(server) as url, client() as c:
        first = await post(c, url)
        assert first.content == body
        assert "x-sum" not in first.headers
        assert "link" not in first.headers
        assert (await post(c, url)).content == b"ok"
    assert server.connections == 1


async def test_a_body_without_a_length_ends_with_the_connection():
    server = Server(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", then_close=True)
    async with serving(server) as url, client() as c:
        assert (await post(c, url)).content == b"until the end"


async def test_an_answer_to_head_has_no_body():
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
    async with serving(server) as url, httpx.AsyncClient(transport=Transport(TLS, 10, 5.0)) as c:
        answer = await c.head(url)
    assert (answer.headers["content-length"], answer.content) == ("5", b"")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok", id="length"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nok", id="in a chunk"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", id="between chunks"),
    ],
)
async def test_a_body_that_is_cut_short_is_an_error_and_never_a_short_body(answer: bytes):
    async with serving(Server(answer, then_close=True)) as url, client() as c:
        with pytest.raises(httpx.ReadError):
            await post(c, url)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9\r\n", id="not http"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            id="a length and chunks",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n", id="chunk size"),
        pytest.param(b"HTTP/1.1 200 OK\r\nx: " + b"a" * 2 * MAX_HEAD_BYTES, id="head without end"),
    ],
)
async def test_an_answer_that_is_not_sound_http_is_refused_and_its_connection_closed(answer: bytes):
    server = Server(answer)
    async with serving(server) as url, client() as c:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(c, url)
        await asyncio.wait_for(server.left.wait(), 30)


async def test_bytes_that_nobody_asked_for_end_the_connection():
    server = Server(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", OK)
    async with serving(server) as url, client() as c:
        assert (await post(c, url)).content == b"ok"
        await asyncio.wait_for(server.left.wait(), 30)
        assert (await post(c, url)).content == b"ok"
    assert server.connections == 2


async def test_a_line_break_in_a_header_is_refused_before_anything_is_sent():
    server = Server(OK)
    async with serving(server) as url, client() as c:
        with pytest.raises(httpx.LocalProtocolError):
            await c.post(url, content=b"{}", headers={"x-a": "b\r\nx-c: d"})
    assert server.connections == 0


async def test_an_upstream_whose_certificate_is_not_trusted_is_not_asked(tls_server: tuple[str, ssl.SSLContext]):
    url, _ = tls_server
    async with client() as c:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await post(c, url)


async def test_a_trusted_upstream_is_asked_over_tls_by_its_name(tls_server: tuple[str, ssl.SSLContext]):
    url, trusting = tls_server
    async with Client(transport=Transport(trusting, 10, 5.0), trust_env=False) as c:
        answer = await post(c, url)
        assert answer.content == b"ok"
        # the server's callback saw the name that was asked for
        assert answer.headers["x-sni"] == "localhost"
        wrong = url.replace("localhost", "127.0.0.1")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await post(c, wrong)


@pytest.fixture
async def tls_server(tmp_path) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """An HTTPS server with a certificate of its own for ``localhost``."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    process = await asyncio.create_subprocess_exec(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-days", "2", "-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost",
        "-addext", "subjectAltName=DNS:localhost",
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert await process.wait() == 0
    serving_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving_tls.load_cert_chain(certificate, key)
    names: list[str | None] = []
    serving_tls.sni_callback = lambda _socket, name, _context: names.append(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        sni = (names[-1] or "none").encode()
        writer.write(b"HTTP/1.1 200 OK\r\nx-sni: " + sni + b"\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=serving_tls)
    trusting = ssl.create_default_context(cafile=str(certificate))
    yield f"https://localhost:{listener.sockets[0].getsockname()[1]}/v1", trusting
    listener.close()

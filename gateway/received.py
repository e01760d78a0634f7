"""Answers of upstreams as httpx's, at less than its cost."""

from typing import Any, TypeAlias

import httpx

__all__ = ("Lean", "RawHeaders", "Whole", "raw_headers")

RawHeaders: TypeAlias = list[tuple[bytes, bytes]]


class Lean(httpx.Response):
    """Read without httpx's way through generators and decoders.

    What httpx keeps of an answer beside its status, headers and body is made when it is asked for.
    """

    def __init__(self, status: int, headers: RawHeaders, stream: httpx.AsyncByteStream) -> None:
        self.status_code, self.raw_headers, self.stream = status, headers, stream
        self.is_closed = self.is_stream_consumed = False

    def __getattr__(self, name: str) -> Any:
        """What was not made yet."""
        if "extensions" in self.__dict__:
            raise AttributeError(name)
        kept = dict(self.__dict__)
        super().__init__(self.status_code, headers=self.raw_headers, stream=self.stream)
        self.__dict__.update(kept)
        return getattr(self, name)

    async def aclose(self) -> None:
        """Done with it."""
        if not self.is_closed:
            self.is_closed = True
            await self.stream.aclose()


class Whole(Lean):
    """An answer whose body came in with its head."""

    def __init__(self, status: int, headers: RawHeaders, body: bytes) -> None:
        super().__init__(status, headers, httpx.ByteStream(body))
        self._body = body

    async def aread(self) -> bytes:
        """The body."""
        if any(name.lower() == b"content-encoding" for name, _ in self.raw_headers):
            return await super().aread()
        self.is_stream_consumed = self.is_closed = True
        self._content = self._body
        return self._body


def raw_headers(response: httpx.Response) -> RawHeaders:
    """As they came in."""
    return response.raw_headers if isinstance(response, Lean) else response.headers.raw

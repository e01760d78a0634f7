"""This process's connection to Redis: what is asked of it at once goes in one batch, and batches go one by one.

So what is told comes to be in the order in which it was told. No one waits longer than `WAIT_S`; while Redis is away
nobody waits at all, and it is looked for every `RETRY_S`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ("CHANNEL", "Command", "LinkDown", "RedisLink", "Talk")

WAIT_S: Final = 0.1
PARTS: Final = 5
RETRY_S: Final = 0.5
BEAT_S: Final = 2.0
MOST_AT_ONCE: Final = 256
CHANNEL: Final = "stillroom:changed"
"""Where it is said that keys, releases or what else the store has of the state of things changed."""
SCRIPT: Final = (Path(__file__).parent / "shared_limits.lua").read_text()

log = structlog.get_logger(__name__)


class LinkDown(Exception):
    """Redis is away, or does not answer in time."""


@dataclass(slots=True)
class Command:
    """A call of the script. ``reply`` is set where somebody waits for it."""

    keys: Sequence[str]
    arguments: Sequence[str | int]
    reply: "asyncio.Future[Any] | None" = None


@dataclass(frozen=True, slots=True)
class Talk:
    """What the owner of a link has to say and to hear."""

    told: Callable[[], Sequence[Command]]
    """Gives what is to be told; it goes before what is asked."""
    beat: Callable[[], Command]
    """What is told now and then; the script says 1 where it did not know of this process."""
    greeted: Callable[[bool], None]
    """Called before the first beat of a connection, with True, and where this process was not known."""
    changed: Callable[[], None]
    """Called when `CHANNEL` says so."""


@dataclass
class RedisLink:
    """The connection. `run` keeps it."""

    url: str
    talk: Talk
    up: bool = False
    loop: asyncio.AbstractEventLoop | None = None
    _asked: list[Command] = field(default_factory=list[Command])
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _digest: str = ""
    _said_away: bool = False

    def wake(self) -> None:
        """There is something to be told."""
        self._wake.set()

    async def ask(self, keys: Sequence[str], *arguments: str | int) -> Any:
        """What the script says. Raises `LinkDown`."""
        if not self.up:
            raise LinkDown
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked.append(Command(keys, arguments, reply))
        self._wake.set()
        return await reply

    async def run(self) -> None:
        """Until cancelled."""
        from redis.exceptions import RedisError  # noqa: PLC0415 an optional package

        self.loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    await self._connected()
                # uvloop's word for a connection that was closed is RuntimeError
                except* (RedisError, OSError, EOFError, RuntimeError) as errors:
                    if not self._said_away:
                        log.warning("redis_unreachable", error=_first_line(errors))
                    self._said_away = True
                self._down()
                await asyncio.sleep(RETRY_S)
        finally:
            self._down()

    def _down(self) -> None:
        self.up = False
        asked, self._asked = self._asked, []
        _fail(asked)

    async def _connected(self) -> None:
        """Serve as long as the connection is good."""
        from redis.asyncio import Redis  # noqa: PLC0415 an optional package
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415

        once = Retry(NoBackoff(), 0)
        async with Redis.from_url(self.url, socket_timeout=1.0, socket_connect_timeout=1.0, retry=once) as client:
            self._digest = await client.script_load(SCRIPT)
            self.talk.greeted(True)
            await self._send(client, [self.talk.beat()])
            self.up, self._said_away = True, False
            log.info("redis_reached")
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen(client))
                    group.create_task(self._serve(client))
            finally:
                # at once: to close a connection may take a while
                self._down()

    async def _serve(self, client: "Redis") -> None:
        loop = asyncio.get_running_loop()
        beat_at = loop.time() + BEAT_S
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, beat_at - loop.time())):
                    await self._wake.wait()
            self._wake.clear()
            if loop.time() >= beat_at:
                await self._heartbeat(client)
                beat_at = loop.time() + BEAT_S
            await self._flush(client)

    async def _heartbeat(self, client: "Redis") -> None:
        [unknown] = await self._send(client, [self.talk.beat()])
        if unknown:
            self.talk.greeted(False)

    async def _flush(self, client: "Redis") -> None:
        told = self.talk.told()
        asked, self._asked = self._asked[:MOST_AT_ONCE], self._asked[MOST_AT_ONCE:]
        if self._asked:
            self._wake.set()
        # nobody waits for it any more: then it is not to be taken either
        asked = [command for command in asked if command.reply is not None and not command.reply.done()]
        if not told and not asked:
            return
        try:
            replies = await self._send(client, [*told, *asked])
            for command, reply in zip(asked, replies[len(told) :], strict=True):
                if command.reply is not None and not command.reply.done():
                    command.reply.set_result(reply)
        finally:
            _fail(asked)

    async def _send(self, client: "Redis", commands: Sequence[Command]) -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.evalsha(self._digest, len(command.keys), *command.keys, *command.arguments)
        sent = asyncio.ensure_future(pipeline.execute())
        try:
            # in parts, so that a loop that was busy itself for all of the time does not take that for Redis' silence
            for _ in range(PARTS):
                done, _ = await asyncio.wait((sent,), timeout=WAIT_S / PARTS)
                if done:
                    return sent.result()
            raise TimeoutError(f"no answer in {WAIT_S} s")
        finally:
            sent.cancel()
            # of one that is given up nobody wants to know how it ends
            sent.add_done_callback(_passed_over)

    async def _listen(self, client: "Redis") -> None:
        async with client.pubsub() as heard:
            await heard.subscribe(CHANNEL)
            while True:
                if await heard.get_message(ignore_subscribe_messages=True, timeout=60.0) is not None:
                    self.talk.changed()


def _passed_over(task: "asyncio.Future[Any]") -> None:
    if not task.cancelled():
        _ = task.exception()


def _first_line(errors: ExceptionGroup) -> str:
    """Of what went wrong first, where several tasks ended."""
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return (str(error) or repr(error)).splitlines()[0]


def _fail(asked: Sequence[Command]) -> None:
    for command in asked:
        if command.reply is not None and not command.reply.done():
            command.reply.set_exception(LinkDown())

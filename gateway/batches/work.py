"""One batch from its first line to its files. What was answered is on disk, so that another process can go on.

A line is asked, its record goes to the ledger, its result is written, in this order and without a pause between the
last two. A process that is killed leaves whole results behind; lines without one are asked again, under the same
request id where the ledger has no row of it yet.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler

from gateway.batches.folder import Folder, Part, lines_of
from gateway.batches.line import Answered, Line, LineError, ask, failure, number_of, read_line, request_id_of, result
from gateway.batches.room import Room
from gateway.errors import error_body
from gateway.wire import encode
from ledger import batches, requests
from ledger.batches import Batch
from ledger.files import File
from ledger.keys import Key
from ledger.store import Store, now_ms

__all__ = ("BatchWork",)

MAX_PAUSE_S: Final = 10.0
"""Longest pause of a line that its key's limits do not let in yet."""
STOPPING: Final = "shutting_down"
EXPIRED: Final = "batch_expired"
REVOKED: Final = encode(
    error_body("The key of this batch was revoked or has expired.", "invalid_request_error", "invalid_api_key")
)


@dataclass
class BatchWork:
    """The work on a batch that this process has the lease of."""

    app: Litestar
    store: Store
    folder: Folder
    room: Room
    handler: HTTPRouteHandler
    batch: Batch
    max_lines: int
    ends_as: str = "completed"
    """``cancelled`` or ``expired`` once it is to end before its time."""
    left: bool = False
    """Whether this process is to leave it to another, or to itself at its next start."""
    completed: int = 0
    failed: int = 0
    _done: set[int] = field(default_factory=set[int])
    _names: set[str] = field(default_factory=set[str])
    _tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    _resumed: bool = False

    async def run(self) -> None:
        """Do what is left of it. Raises what the store and the disk raise."""
        if self.batch.status == "finalizing":
            await self._finish()
        elif self.batch.status != "validating" or await self._validate():
            await self._ask_all()

    async def _validate(self) -> bool:
        total = await asyncio.to_thread(lambda: sum(map(len, lines_of(self._input))))
        if 0 < total <= self.max_lines:
            values = {"status": "in_progress", "total": total, "in_progress_at": now_ms()}
            await asyncio.to_thread(batches.change, self.store, self.batch.id, ("validating",), **values)
            return True
        why = "The file is empty." if not total else f"The file has more than {self.max_lines} lines."
        errors = [
            {"code": "empty_file" if not total else "too_many_lines", "message": why, "param": None, "line": None}
        ]
        values = {"status": "failed", "failed_at": now_ms(), "errors": errors, "total": total}
        await asyncio.to_thread(batches.change, self.store, self.batch.id, batches.OPEN, **values)
        return False

    # asking

    async def _ask_all(self) -> None:
        output, errors = (Part(self.folder.of(name)) for name in self._parts)
        try:
            await asyncio.to_thread(self._read_progress)
            async for number, raw in self._lines():
                try:
                    line = self._read(raw)
                except LineError as error:
                    if number not in self._done:
                        self._fail(errors, number, error)
                    continue
                if number in self._done:
                    continue
                if self.ends_as == "completed" and await self.room.enter(lambda: self._is_stopping):
                    task = asyncio.create_task(self._answer(number, line, output, errors))
                    self._tasks.add(task)
                    task.add_done_callback(self._over)
                elif self.left or self.ends_as == "cancelled":
                    break
                else:
                    self._fail(errors, number, _expired(line))
            await self._wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await self._wait()
            output.close()
            errors.close()
        if not self.left:
            await asyncio.to_thread(
                batches.change, self.store, self.batch.id, ("in_progress",),
                status="finalizing", finalizing_at=now_ms(),
            )  # fmt: skip
            await self._finish()

    @property
    def _is_stopping(self) -> bool:
        return self.left or self.ends_as != "completed"

    async def _wait(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.room.leave()
        if not task.cancelled() and (error := task.exception()) is not None:
            # the disk: another process, or this one later, goes on from what was written
            self.left = True
            self.room.complain(self.batch.id, error)

    async def _lines(self) -> AsyncIterator[tuple[int, bytes]]:
        some = iter(lines_of(self._input))
        while (found := await asyncio.to_thread(next, some, None)) is not None:
            for each in found:
                if self.left:
                    return
                yield each

    def _read(self, raw: bytes) -> Line:
        line = read_line(raw, self.batch.endpoint, self.app.state.max_body_bytes)
        if line.custom_id in self._names:
            raise LineError("duplicate_custom_id", "Another line before has this 'custom_id'.", line.custom_id)
        self._names.add(line.custom_id)
        return line

    async def _answer(self, number: int, line: Line, output: Part, errors: Part) -> None:
        answer = await self._asked(number, line)
        if answer is None:
            if self.ends_as == "expired" and not self.left:
                self._fail(errors, number, _expired(line))
            return
        written = result(self.batch.id, number, line, answer)
        if answer.status < 400:
            output.add(written)
            self.completed += 1
        else:
            errors.add(written)
            self.failed += 1

    async def _asked(self, number: int, line: Line) -> Answered | None:
        """The answer; None where the gateway ends before there is one."""
        request_id = await self._request_id(number)
        while True:
            key = self._key()
            if key is None and self.batch.key_id is not None:
                return Answered(401, {}, REVOKED)
            state: dict[str, Any] = {"request_id": request_id} | ({"key": key} if key else {})
            answer = await ask(self.app, self.handler, state, line.body)
            if answer.code == STOPPING:
                return None
            if answer.pause is None:
                return answer
            await asyncio.sleep(min(answer.pause, MAX_PAUSE_S))
            if self._is_stopping:
                return None

    async def _request_id(self, number: int) -> str:
        attempt = 0
        while True:
            found = request_id_of(self.batch, number, attempt)
            # of a process that was killed between a line's record and its result, or shut down within a line
            if not self._resumed or await asyncio.to_thread(requests.get, self.store, found) is None:
                return found
            attempt += 1

    def _key(self) -> Key | None:
        keys = self.app.state.live.snapshot.keys.values()
        now = now_ms()
        return next(
            (k for k in keys if k.id == self.batch.key_id and (k.expires_at is None or k.expires_at > now)), None
        )

    def _fail(self, errors: Part, number: int, error: LineError) -> None:
        errors.add(failure(self.batch.id, number, error))
        self.failed += 1

    # what is on disk

    @property
    def _input(self) -> Path:
        return self.folder.of(self.batch.input_file_id)

    @property
    def _parts(self) -> tuple[str, str]:
        return f"{self.batch.id}.output", f"{self.batch.id}.errors"

    @property
    def _made(self) -> tuple[str, str]:
        suffix = self.batch.id.removeprefix("batch_")
        return f"file-{suffix}o", f"file-{suffix}e"

    def _read_progress(self) -> None:
        done = [{number_of(line) for line in Part.lines(self.folder.of(name))} for name in self._parts]
        self.completed, self.failed = map(len, done)
        self._done = done[0] | done[1]
        self._resumed = self.batch.status != "validating"

    async def _finish(self) -> None:
        await asyncio.to_thread(self._seal)

    def _seal(self) -> None:
        now, made = now_ms(), list[File]()
        expires_at = now + self.room.keep_ms
        counts: list[int] = []
        for part, file_id, name in zip(self._parts, self._made, ("output", "error"), strict=True):
            size = self.folder.seal(part, file_id)
            counts.append(sum(map(len, lines_of(self.folder.of(file_id)))) if size else 0)
            if size:
                filename = f"{self.batch.id}_{name}.jsonl"
                made.append(File(file_id, now, self.batch.key_id, filename, "batch_output", size, expires_at))
        named = {file.id for file in made}
        ended = self._ended(self.folder.of(self._made[1]))
        batches.finish(
            self.store, self.batch.id, made, status=ended, completed=counts[0], failed=counts[1],
            output_file_id=self._made[0] if self._made[0] in named else None,
            error_file_id=self._made[1] if self._made[1] in named else None, **{f"{ended}_at": now},
        )  # fmt: skip

    def _ended(self, errors: Path) -> str:
        """As it was to end, though another process began to."""
        if self.batch.cancelling_at is not None:
            return "cancelled"
        code = f'"code":"{EXPIRED}"'.encode()
        expired = errors.exists() and any(code in line for some in lines_of(errors) for _, line in some)
        return "expired" if expired else "completed"


def _expired(line: Line) -> LineError:
    return LineError(EXPIRED, "The batch's time was over before this line was answered.", line.custom_id)

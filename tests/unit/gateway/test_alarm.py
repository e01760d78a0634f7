"""An alarm interrupts whoever waits under it, once, and nobody else."""

import asyncio

import pytest

from gateway.alarm import Alarm


def now() -> float:
    return asyncio.get_running_loop().time()


async def cancelled_under(alarm: Alarm) -> "asyncio.Task[None]":
    """A task that waits under the alarm and has just been cancelled."""

    async def wait() -> None:
        with alarm:
            await asyncio.sleep(5)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    return task


async def test_it_interrupts_a_wait_when_its_time_is_over():
    alarm = Alarm(now() + 0.02)
    with pytest.raises(TimeoutError), alarm:
        await asyncio.sleep(5)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_it_interrupts_nobody_between_two_waits_and_the_next_one_at_once():
    alarm = Alarm(now() + 0.02)
    with alarm:
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    with pytest.raises(TimeoutError), alarm:
        pytest.fail("the block was entered")


async def test_it_interrupts_whichever_task_waits():
    alarm = Alarm(now() + 0.1)

    async def wait(seconds: float) -> str:
        try:
            with alarm:
                await asyncio.sleep(seconds)
        except TimeoutError:
            return "late"
        return "in time"

    assert await asyncio.create_task(wait(0)) == "in time"
    assert await asyncio.create_task(wait(5)) == "late"


async def test_moved_to_a_later_time_it_rings_then():
    began = now()
    alarm = Alarm(began + 0.02)
    alarm.move(began + 0.15)
    with pytest.raises(TimeoutError), alarm:
        await asyncio.sleep(5)
    assert now() - began > 0.12


async def test_stopped_it_does_not_ring():
    alarm = Alarm(now() + 0.02)
    alarm.stop()
    with alarm:
        await asyncio.sleep(0.05)


async def test_a_cancellation_of_anothers_stays_one():
    alarm = Alarm(now() + 5)
    task = await cancelled_under(alarm)
    with pytest.raises(asyncio.CancelledError):
        await task
    alarm.stop()


async def test_cancelled_and_late_at_once_is_cancelled():
    alarm = Alarm(now() + 5)
    task = await cancelled_under(alarm)
    alarm.move(0.0)
    alarm._ring()
    with pytest.raises(asyncio.CancelledError):
        await task

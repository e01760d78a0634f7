"""Says to the gateways, over Redis, that the store has changed, so that they look at once."""

import time
from collections.abc import Callable
from typing import Final

import structlog

from gateway.redis_link import CHANNEL

__all__ = ("announcer",)

WAIT_S: Final = 0.2
PAUSE_S: Final = 10.0
"""How long Redis is left alone after a failure: who writes shall not wait for it again and again."""

log = structlog.get_logger(__name__)


def announcer(url: str) -> Callable[[], None]:
    """What says it; where Redis is away, the gateways see the change when they look next."""
    from redis import Redis, RedisError
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    once = Retry(NoBackoff(), 0)
    client = Redis.from_url(url, socket_timeout=WAIT_S, socket_connect_timeout=WAIT_S, retry=once)
    not_before = 0.0

    def announce() -> None:
        nonlocal not_before
        if time.monotonic() < not_before:
            return
        try:
            client.publish(CHANNEL, "")
        except RedisError as error:
            not_before = time.monotonic() + PAUSE_S
            log.warning("change_not_announced", error=str(error).splitlines()[0])

    return announce

"""Three gateways and three workers on one PostgreSQL and one Redis: they count as one, no job is run twice, and
nothing's absence fails a request.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import httpx
import pytest
import sqlalchemy as sa

from bench.ledger.recount import differences
from ledger import jobs, keys, schema
from ledger.keys import KeyPolicy
from ledger.records import NANO
from ledger.requests import insert_records
from ledger.rollups import DAY_MS
from ledger.store import Store, now_ms, open_store
from stillroom.announcing import announcer
from tests.engine_fixtures import survivors
from tests.gateway_fixtures import chat_body, wait_until
from tests.gateway_process import KEY_ENV, GatewayProcess, gateway_process
from tests.integration.distill.worlds import answered, trainers
from tests.integration.scale.workers import workers
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer
from tests.scripted_upstream import Script, ScriptedUpstream

PRICE = 0.0015
"""Of a request, whatever its tokens."""
SETTINGS = """
redis_url = "{redis}"
requests_per_minute = 60000
[teacher]
base_url = "{teacher}"
model = "frontier"
api_key_env = "{key_env}"
price = {{ input = 0.0, output = 0.0, request = {price} }}
[store]
url = "{store}"
"""
NEVER_LOOKS = "import gateway.live; gateway.live.REFRESH_S = 3600.0\n"
"""Of the store by itself: it has to be told."""
WAIT_S = 60.0


@dataclass
class Answers:
    """What clients were told."""

    statuses: list[int] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    @property
    def counted(self) -> Counter[int]:
        return Counter(self.statuses)

    def answered(self) -> set[str]:
        return {name for name, status in zip(self.ids, self.statuses, strict=True) if status == 200}


@dataclass
class World:
    """The three, and what they share."""

    gateways: list[GatewayProcess]
    store: Store
    teacher: ScriptedUpstream
    postgres: PostgresServer
    redis: RedisServer
    store_url: str
    last: str = ""
    """The id of the newest key."""

    def key(self, scope: str = "inference", **policy) -> str:
        """A new key that all of them know."""
        key, secret = keys.create(self.store, f"k{now_ms()}", [scope], "test", policy=KeyPolicy(**policy))
        self.last = key.id
        for gateway in self.gateways:
            wait_until(lambda gateway=gateway: self.models(gateway, secret) != 401, WAIT_S)
        return secret

    def models(self, gateway: GatewayProcess, secret: str) -> int:
        return gateway.probe.get(f"{gateway.url}/v1/models", headers=bearer(secret)).status_code

    async def ask(self, secret: str, count: int, every: float = 0.0) -> Answers:
        """So many requests, spread over the gateways, all at once or one ``every`` so many seconds."""
        answers = Answers()

        async def one(client: httpx.AsyncClient, number: int) -> None:
            await asyncio.sleep(number * every)
            url = f"{self.gateways[number % 3].url}/v1/chat/completions"
            answer = await client.post(url, json=chat_body(f"hello {number}", max_tokens=1), headers=bearer(secret))
            answers.statuses.append(answer.status_code)
            answers.ids.append(answer.headers["x-request-id"])

        async with httpx.AsyncClient(timeout=WAIT_S, limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(*(one(client, number) for number in range(count)))
        return answers

    def tries(self, key: Callable[[], str], count: int) -> Iterator[tuple[int, Answers]]:
        """So many requests at once with a new key, and how many of them one gateway counted alone: a machine that is
        short of processors may have Redis answer late. Three times at the most, until there was none.
        """
        for _ in range(3):
            secret, before = key(), sum(self.metric("stillroom_shared_limits_missed_total"))
            answers = asyncio.run(self.ask(secret, count))
            missed = round(sum(self.metric("stillroom_shared_limits_missed_total")) - before)
            yield missed, answers
            if not missed:
                return
            wait_until(lambda: self.metric("stillroom_shared_limits_reachable") == [1, 1, 1], WAIT_S)

    def rows(self, secret_id: str) -> list[sa.Row]:
        with self.store.read() as connection:
            table = schema.requests
            found = sa.select(table.c.id, table.c.cost_nano, table.c.status).where(table.c.key_id == secret_id)
            return list(connection.execute(found))

    def stored(self, ids: set[str]) -> bool:
        with contextlib.suppress(sa.exc.OperationalError):
            return ids <= {row.id for row in self.rows(self.last)}
        return False

    def ask_admin(self, number: int, path: str, secret: str, body: dict) -> dict:
        """What one of them answers to a change that a person asks for."""
        gateway = self.gateways[number % 3]
        answer = gateway.probe.post(f"{gateway.url}/admin/v1/{path}", json=body, headers=bearer(secret))
        assert answer.is_success, answer.text
        return answer.json()

    def have_failed(self, job_ids: list[str]) -> bool:
        return all(jobs.get(self.store, each).state == "failed" for each in job_ids)

    def states(self, job_id: str) -> list[str]:
        """That a job has gone through."""
        return [each["data"]["state"] for each in jobs.events(self.store, job_id) if each["kind"] == "state"]

    def metric(self, name: str) -> list[float]:
        return [gateway.metric(name) for gateway in self.gateways]


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, redis_of_session: RedisServer
) -> Iterator[World]:
    teacher = ScriptedUpstream()
    with contextlib.ExitStack() as stack:
        stack.callback(teacher.close)
        url = stack.enter_context(postgres.database())
        filled = {"redis": redis_of_session.url, "teacher": teacher.url, "key_env": KEY_ENV, "store": url}
        settings = SETTINGS.format(price=PRICE, **filled)
        gateways = [
            stack.enter_context(
                gateway_process(tmp_path_factory.mktemp(f"gateway{number}"), settings, prelude, store_url=url)
            )
            for number, prelude in enumerate(("", "", NEVER_LOOKS))
        ]
        store = open_store(url, announcer(redis_of_session.url))
        stack.callback(store.close)
        for gateway in gateways:
            gateway.start()
        world = World(gateways, store, teacher, postgres, redis_of_session, url)
        wait_until(lambda: world.metric("stillroom_shared_limits_reachable") == [1, 1, 1], WAIT_S)
        yield world


def test_the_sums_are_those_of_all_rows_to_the_nano(world):
    answers = asyncio.run(world.ask(world.key(), 90))
    assert answers.counted == {200: 90}
    wait_until(lambda: world.stored(set(answers.ids)), WAIT_S)
    assert differences(world.store, 0, now_ms() + DAY_MS) == []
    assert sum(row.cost_nano for row in world.rows(world.last)) == 90 * round(PRICE * NANO)


def test_a_key_that_is_revoked_is_refused_by_all_also_by_one_that_only_hears_of_it(world):
    secret = world.key()
    keys.revoke(world.store, world.last, "test")
    for gateway in world.gateways:
        wait_until(lambda gateway=gateway: world.models(gateway, secret) == 401, WAIT_S)


def test_requests_per_minute_are_counted_together(world):
    for missed, answers in world.tries(lambda: world.key(requests_per_minute=6), 60):
        assert set(answers.statuses) == {200, 429}
        # each gateway for itself would have let in 18; a few more drain out while they come
        assert 6 <= answers.counted[200] <= 12 + missed


def test_a_budget_hit_by_200_requests_at_once_is_overspent_by_one_request_at_most(world):
    world.teacher.reset(Script(delay=0.5))
    for missed, answers in world.tries(lambda: world.key(budget_day=0.01), 200):
        assert set(answers.statuses) == {200, 429}
        wait_until(partial(world.stored, answers.answered()), WAIT_S)
        spent = sum(row.cost_nano for row in world.rows(world.last))
        assert 0.01 * NANO <= spent < (0.01 + PRICE * (1 + missed)) * NANO
    world.teacher.reset()


def test_a_database_that_stops_under_traffic_fails_no_request_and_gets_every_row_once(world):
    secret = world.key()

    async def traffic() -> Answers:
        asking = asyncio.create_task(world.ask(secret, 120, every=0.1))
        await asyncio.sleep(2)
        await asyncio.to_thread(world.postgres.stop, "immediate")
        await asyncio.sleep(5)
        await asyncio.to_thread(world.postgres.start)
        return await asking

    answers = asyncio.run(traffic())
    assert answers.counted == {200: 120}
    wait_until(lambda: world.stored(set(answers.ids)), WAIT_S)
    assert Counter(row.id for row in world.rows(world.last)) == Counter(answers.ids)
    assert differences(world.store, 0, now_ms() + DAY_MS) == []


@pytest.mark.parametrize("gone", ["killed", "frozen"])
def test_a_redis_that_is_away_fails_no_request_and_is_found_again(world, gone):
    secret = world.key(max_concurrent=1_000, budget_day=100.0)

    async def traffic() -> Answers:
        asking = asyncio.create_task(world.ask(secret, 60, every=0.1))
        await asyncio.sleep(2)
        world.redis.stop() if gone == "killed" else world.redis.freeze()
        await asyncio.sleep(2)
        answers = await asking
        assert 0 in world.metric("stillroom_shared_limits_reachable")
        return answers

    try:
        answers = asyncio.run(traffic())
    finally:
        world.redis.start() if gone == "killed" else world.redis.thaw()
    assert answers.counted == {200: 60}
    wait_until(lambda: world.metric("stillroom_shared_limits_reachable") == [1, 1, 1], WAIT_S)
    assert any(world.metric("stillroom_shared_limits_missed_total"))
    # each said so, once for each time that it went
    assert all("redis_unreachable" in gateway.log() for gateway in world.gateways)


@pytest.mark.slow
@pytest.mark.timeout(480)
def test_no_job_of_three_gateways_is_run_twice_by_three_workers_one_of_which_is_killed(world, tiny_model, tmp_path):
    """First jobs that end at once, for want of anything to learn, then one that is trained when its worker dies."""
    secret = world.key("admin")
    with workers(tmp_path, world.store_url, tiny_model) as three:
        made: list[str] = []
        while len(three.took_part()) < 3:
            assert len(made) < 120, three.took_part()
            made += [world.ask_admin(number, "jobs", secret, {"tags": ["nobody"]})["id"] for number in range(6)]
            wait_until(partial(world.have_failed, made), 4 * WAIT_S)
        assert Counter(job for _, job in three.failures()) == dict.fromkeys(made, 1)
        assert all(world.states(job) == ["building", "failed"] for job in made)

        insert_records(world.store, [answered(number, tags=["to learn"]) for number in range(60)])
        job = world.ask_admin(1, "jobs", secret, {"tags": ["to learn"]})["id"]
        folder = tmp_path / "jobs" / job
        wait_until(lambda: len(trainers(folder)) == 2, 2 * WAIT_S)
        begun, left = trainers(folder), jobs.get(world.store, job)
        killed = three.holder(left.lease_owner)
        killed.kill()
        killed.wait()
        assert survivors(begun) == [], "the trainer outlived its worker"
        left = jobs.get(world.store, job)
        wait_until(lambda: jobs.get(world.store, job).lease_owner != left.lease_owner, 2 * WAIT_S)
        taken = jobs.get(world.store, job)
        assert taken.updated_at > left.lease_until
        wait_until(lambda: len(trainers(folder)) == 2, 2 * WAIT_S)
        heir = three.holder(taken.lease_owner)
        assert all(heir.pid in [parent.pid for parent in each.parents()] for each in trainers(folder))
        world.ask_admin(2, f"jobs/{job}/cancel", secret, {})
        wait_until(lambda: jobs.get(world.store, job).state == "cancelled", WAIT_S)
        assert world.states(job) == ["building", "training", "building", "training", "cancelled"]
        assert trainers(folder) == []

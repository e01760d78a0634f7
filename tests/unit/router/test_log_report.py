"""Whose router the log is read by: the release's own, wherever its files are."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from ledger import releases, schema
from ledger.artifact_store import ARTIFACT, push
from ledger.artifacts import seal
from ledger.releases import Release
from router.calibration import Prices
from router.log_report import router_of
from router.model import RouterModel
from router.train import train_router
from tests.gateway_fixtures import _labelled
from tests.unit.ledger.rows import a_store


def a_router() -> RouterModel:
    rng = np.random.default_rng(0)
    trained = train_router([_labelled(rng) for _ in range(60)], 0.5, 0.1, Prices(1.0, 20.0))
    return replace(trained, thresholds=replace(trained.thresholds, hard=0.25))


def test_a_router_whose_files_are_in_a_store_only_is_fetched_and_one_that_was_changed_is_not_read(tmp_path: Path):
    folder, cache = tmp_path / "releases" / "r1", tmp_path / "cache"
    a_router().save(folder / "router")
    digest = seal(folder, {})
    with a_store() as store:
        releases.add(store, Release("r1", "candidate", 1, None, None, None, str(folder), digest, {}))
        url = push(folder, f"file://{tmp_path}/store")
        shutil.rmtree(folder)
        assert router_of(store, "r1", cache) is None
        with store.write() as connection:
            connection.execute(sa.update(schema.releases).values(summary={ARTIFACT: url}))
        found = router_of(store, "r1", cache)
        assert found is not None
        assert found.thresholds.hard == 0.25
        for path in cache.rglob("router.json"):
            path.write_bytes(path.read_bytes() + b" ")
        assert router_of(store, "r1", cache) is None

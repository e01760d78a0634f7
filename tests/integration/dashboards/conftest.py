"""The composed gateway with its pages, on a ledger of its own."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
import uvicorn
from litestar.testing import TestClient

from gateway.settings import GatewaySettings
from ledger import keys
from ledger.store import open_store
from stillroom.compose import build_gateway
from stillroom.settings import Settings
from tests.gateway_fixtures import router

__all__ = ("composed", "ops", "router", "served")


@pytest.fixture
def composed(tmp_path):
    """The application, its store, and a key's secret for each scope."""
    settings = Settings(home=str(tmp_path), gateway=GatewaySettings(requests_per_minute=0))
    store = open_store(settings.store_url)
    secrets = {scope: keys.create(store, scope, [scope], "test")[1] for scope in keys.SCOPES}
    yield SimpleNamespace(app=build_gateway(settings, store), store=store, secrets=secrets)
    store.close()


@pytest.fixture
def ops(composed):
    """``get(path, scope)`` asks as a browser does, with a key of the scope, or none."""
    with TestClient(composed.app) as client:

        def get(path: str = "/ops", scope: str | None = "read"):
            headers = {"accept": "text/html"}
            if scope is not None:
                headers["authorization"] = f"Bearer {composed.secrets[scope]}"
            return client.get(path, headers=headers)

        yield SimpleNamespace(get=get, client=client, store=composed.store, secrets=composed.secrets)


@pytest.fixture
def served(composed):
    """The application behind a socket; its address is ``url``."""
    server = uvicorn.Server(uvicorn.Config(composed.app, port=0, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    (port,) = {socket.getsockname()[1] for listening in server.servers for socket in listening.sockets}
    yield SimpleNamespace(url=f"http://127.0.0.1:{port}", store=composed.store, secrets=composed.secrets)
    server.should_exit = True
    thread.join(30)

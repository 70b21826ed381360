"""Shared by all lanes: asyncio as anyio's backend, and `--real` for the tests that need a real API server."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", action="store_true", help="run against the real kube-apiserver ('make e2e')")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"

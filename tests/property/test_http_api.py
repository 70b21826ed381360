"""The HTTP API against its own description: schemathesis sends what `/openapi.json` allows and what it forbids, to a
real hub; whatever comes, there is an answer that the description knows, and no server error."""

import hmac
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from hub.api import openapi
from hub.api.webhooks import PROVIDERS
from hub.wiring import Hub
from tests import real
from tests.unit.test_api import fleet_repo

EXAMPLES = int(os.environ.get("FLOTILLA_API_EXAMPLES", "15"))
"""Of each operation, allowed and forbidden requests apart; `--hypothesis-seed` replays those that failed."""
LONGEST_LINE = 8190
"""Of path and query: with longer ones the HTTP server does not get as far as to us, and says so in its own words."""
SECRET = b"shared with the host"
CHECKS = [
    checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
STREAM = "/api/v1/stream"
"""Has no end: it is held against its description by hand."""

SCHEMA = schemathesis.openapi.from_dict(openapi.document())
OPERATIONS = {
    f"{operation.method.upper()} {operation.path}": operation
    for operation in (cast(Any, found).ok() for found in SCHEMA.get_all_operations())
    if operation.path != STREAM
}
TO_FORBID = {name for name, found in OPERATIONS.items() if found.query or found.method == "post"}
"""Any text is allowed in a path, so nothing is forbidden where there is nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    url: str
    token: str


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A hub process with one cluster and one bundle."""
    folder, port = tmp_path_factory.mktemp("hub"), real.free_port()
    fleet, secret = fleet_repo(folder / "fleet"), folder / "secret"
    secret.write_bytes(SECRET)
    command = [sys.executable, "-m", "hub.main", f"--fleet={fleet}", f"--data={folder / 'data'}", "--poll=3600"]
    command += [f"--listen=127.0.0.1:{port}", f"--webhook-secret-file={secret}", "--log-level=error"]
    process = real.Process("hub", command, folder, {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))})
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        with suppress(requests.ConnectionError):
            return bool(requests.get(f"{url}/readyz", timeout=10).ok)
        return False

    real.wait_until("the hub", ready, process=process, timeout_s=60)
    yield Served(url=url, token=(folder / "data/admin.token").read_text().strip())
    process.stop()


def test_each_route_is_described_and_nothing_else(tmp_path: Path) -> None:
    made = Hub(fleet=str(tmp_path), branch="main", data=tmp_path / "data", poll_s=1.0, heartbeat_s=1.0)
    resources = made.application().router.resources()
    routes = {(route.method, resource.canonical) for resource in resources for route in resource}
    made.loop.close()
    made.tracing.close()
    made._opened.close()
    described = {(op.method.upper(), op.path) for op in openapi.OPERATIONS}
    described |= {("HEAD", path) for method, path in described if method == "GET" and path != STREAM}
    apart = {("GET", "/agent/v1/connect"), ("HEAD", "/agent/v1/connect")}
    served = {(method, path) for method, path in routes if not path.startswith("/git/")}
    assert served - apart == described


def test_the_document_is_valid_and_is_what_is_served(hub: Served) -> None:
    SCHEMA.validate()
    assert requests.get(f"{hub.url}/openapi.json", timeout=10).json() == json.loads(json.dumps(openapi.document()))


def test_the_stream_is_what_is_described(hub: Served) -> None:
    with requests.get(hub.url + STREAM, stream=True, timeout=10) as response:
        assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (200, "text/event-stream")


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_what_is_allowed_has_an_answer_that_is_described(hub: Served, name: str) -> None:
    _try(hub, OPERATIONS[name], GenerationMode.POSITIVE)


@pytest.mark.parametrize("name", sorted(TO_FORBID))
def test_what_is_forbidden_has_an_answer_that_is_described(hub: Served, name: str) -> None:
    _try(hub, OPERATIONS[name], GenerationMode.NEGATIVE)


def _try(hub: Served, operation: Any, mode: GenerationMode) -> None:
    headers = {"Authorization": f"Bearer {hub.token}"} if operation.method == "post" else {}
    with requests.Session() as session:

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: Any) -> None:
            response = case.call(base_url=hub.url, session=session, headers=headers)
            if len(response.request.path_url) > LONGEST_LINE:
                assert response.status_code == 400
            else:
                case.validate_response(response, checks=CHECKS)

        holds()


PUSHES = st.fixed_dictionaries(
    {"ref": st.sampled_from(["refs/heads/main", "refs/heads/other", "", None])},
    optional={"push": st.none() | st.text()},
)


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
def test_a_signed_delivery_of_anything_has_an_answer_that_is_described(hub: Served, provider: str) -> None:
    operation, names = OPERATIONS["POST /webhooks/{provider}"], PROVIDERS[provider]
    anything = st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), st.lists, max_leaves=5)
    with requests.Session() as session:

        @settings(max_examples=EXAMPLES, deadline=None, database=None)
        @given(payload=PUSHES | anything, event=st.sampled_from([*sorted(names.pushes), "ping"]))
        def holds(payload: Any, event: str) -> None:
            body = json.dumps(payload).encode()
            headers = {names.event[0]: event, "Content-Type": "application/json", "X-Gitlab-Token": SECRET.decode()}
            headers |= {h: p + hmac.new(SECRET, body, "sha256").hexdigest() for h, p in names.signatures}
            url = f"{hub.url}/webhooks/{provider}"
            response = session.post(url, data=body, headers=headers, timeout=10)
            case = operation.Case(path_parameters={"provider": provider}, body=payload)
            case.validate_response(response, checks=CHECKS)
            assert response.status_code == (200 if isinstance(payload, dict) else 400)

        holds()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v1/rollouts?limit=%C2%B2"),
        ("GET", "/api/v1/rollouts?limit=" + "1" * 5000),
        ("GET", "/api/v1/events?cluster=%FF%00"),
        ("GET", "/api/v1/clusters/%FF%00"),
        ("GET", "/api/v1/rollouts/%ED%A0%80"),
        ("POST", "/api/v1/drift/%C2%B2/values"),
        ("PUT", "/api/v1/fleet"),
        ("GET", "/api/v2/fleet"),
    ],
)
def test_what_no_client_would_send_has_an_answer_that_says_what_is_wrong(hub: Served, method: str, path: str) -> None:
    response = requests.request(method, hub.url + path, headers={"Authorization": f"Bearer {hub.token}"}, timeout=10)
    assert response.status_code in (200, 400, 404, 405)
    assert response.status_code == 200 or {"error", "remedy"} <= response.json().keys()


@pytest.mark.parametrize(
    "body", [b"x", b"[]", b'{"cluster": "eu-1", "ttl_s": "soon"}', b'{"cluster": "eu-1", "ttl_s": [1]}']
)
def test_a_command_that_cannot_be_read_is_the_senders_mistake(hub: Served, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {hub.token}"}
    response = requests.post(f"{hub.url}/api/v1/join-tokens", data=body, headers=headers, timeout=10)
    assert (response.status_code, response.json().keys()) == (400, {"error", "remedy"})


def test_a_token_that_is_not_ascii_is_just_wrong(hub: Served) -> None:
    headers = {"Authorization": b"Bearer \xff\xc3"}
    response = requests.post(f"{hub.url}/api/v1/sync", data=b"{}", headers=headers, timeout=10)
    assert (response.status_code, response.json().keys()) == (401, {"error", "remedy"})

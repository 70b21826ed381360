"""One source into the store: a chart comes with the charts that it depends on, by the same rules as itself."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest

from hub.external import fetch, store
from hub.external.fetch import Access
from hub.model import HelmSource, Pin
from proto.errors import InvalidInput, Permanent, Refused
from tests import charts
from tests.site import Asked, Says, Site

BASIC = "Basic Ym90OmhpZGRlbg=="


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Site]:
    """Has `redis`, for everybody."""
    with Site() as other:
        packed = charts.pack(tmp_path / "redis", "redis", version="1.4.0", into=tmp_path / "packed")
        other.routes = {"/redis-1.4.0.tgz": packed.read_bytes(), "/index.yaml": charts.index(tmp_path / "packed")}
        yield other


def serve(site: Site, folder: Path, needs: str, *, private: bool = False) -> None:
    """The chart `web`, which needs another one and does not bring it along."""
    more = f"dependencies: [{{name: redis, version: ^1, repository: '{needs}'}}]\n"
    with tarfile.open(folder / "web.tgz", "w:gz") as tar:
        tar.add(charts.write(folder / "web", "web", more=more), "web")
    bodies = {
        "/index.yaml": b"entries:\n  web:\n  - version: 1.0.0\n    urls: [web.tgz]\n",
        "/web.tgz": (folder / "web.tgz").read_bytes(),
    }
    for path, body in bodies.items():

        def answer(asked: Asked, body: bytes = body) -> Says:
            allowed = not private or asked.headers.get("authorization") == BASIC
            return Says(body=body) if allowed else Says(status=401)

        site.routes[path] = answer


def fetched(site: Site, folder: Path, *, access: Access | None = None, known: Pin | None = None) -> Pin:
    credentials = "team" if access is not None and access.secrets is not None else ""
    source = HelmSource(repository=site.url, chart="web", version="1.x", credentials=credentials)
    return fetch.fetch(source, folder / "store", access=access or Access(), known=known)


def files(folder: Path, pin: Pin) -> set[str]:
    mount = store.mount(folder / "store", pin.tree)
    return set(charts.listed(pygit2.Repository(str(mount.repo)), mount.tree))


def test_a_chart_comes_with_what_it_depends_on(site: Site, other: Site, tmp_path: Path) -> None:
    serve(site, tmp_path, other.url)
    pin = fetched(site, tmp_path)
    assert {"Chart.yaml", "charts/redis/Chart.yaml", "charts/redis/values.yaml"} <= files(tmp_path, pin)


@pytest.mark.parametrize("told", [True, False], ids=["the index tells its digest", "the index does not"])
def test_what_did_not_change_is_not_completed_again(site: Site, other: Site, tmp_path: Path, told: bool) -> None:
    serve(site, tmp_path, other.url)
    if told:
        digest = hashlib.sha256((tmp_path / "web.tgz").read_bytes()).hexdigest()
        index = f"entries:\n  web:\n  - version: 1.0.0\n    urls: [web.tgz]\n    digest: {digest}\n"
        site.routes["/index.yaml"] = index.encode()
    pin = fetched(site, tmp_path)
    other.asked.clear()
    assert fetched(site, tmp_path, known=pin) == pin
    assert other.asked == []


def test_the_login_stays_with_the_addresses_that_it_is_for(site: Site, other: Site, tmp_path: Path) -> None:
    serve(site, tmp_path, other.url, private=True)
    secrets = tmp_path / "credentials.yaml"
    secrets.write_text(f"team: {{for: ['{site.url}'], username: bot, password: hidden}}\n")
    fetched(site, tmp_path, access=Access(secrets=secrets))
    assert {one.headers.get("authorization") for one in site.asked} == {BASIC}
    assert {one.headers.get("authorization") for one in other.asked} == {None}


def test_a_dependency_in_the_same_private_repository_gets_the_login(site: Site, other: Site, tmp_path: Path) -> None:
    needs = f"{site.url}/more"
    serve(site, tmp_path, needs, private=True)
    redis = other.routes["/redis-1.4.0.tgz"]
    assert isinstance(redis, bytes)

    def more(asked: Asked) -> Says:
        index = b"entries:\n  redis:\n  - version: 1.4.0\n    urls: [redis.tgz]\n"
        body = redis if asked.path.endswith(".tgz") else index
        return Says(body=body) if asked.headers.get("authorization") == BASIC else Says(status=401)

    site.routes["/more/index.yaml"] = site.routes["/more/redis.tgz"] = more
    secrets = tmp_path / "credentials.yaml"
    secrets.write_text(f"team: {{for: ['{site.url}'], username: bot, password: hidden}}\n")
    assert "charts/redis/Chart.yaml" in files(tmp_path, fetched(site, tmp_path, access=Access(secrets=secrets)))
    secrets.write_text(f"team: {{for: ['{site.url}/'], username: bot, password: wrong-secret}}\n")
    with pytest.raises(Refused) as refused:
        fetched(site, tmp_path, access=Access(secrets=secrets))
    assert "wrong-secret" not in str(refused.value)


def test_a_tenants_chart_brings_nothing_from_where_the_tenant_may_not_fetch(
    site: Site, other: Site, tmp_path: Path
) -> None:
    serve(site, tmp_path, other.url)
    with pytest.raises(InvalidInput, match=rf"source {other.url}: is not where its tenant may fetch from"):
        fetched(site, tmp_path, access=Access(tenant="team", allowed=(site.url,)))
    assert other.asked == []


def test_a_dependency_without_tls_is_refused_beyond_this_machine(site: Site, tmp_path: Path) -> None:
    serve(site, tmp_path, "http://charts.example.org")
    with pytest.raises(InvalidInput, match=r"source http://charts.example.org: is not encrypted"):
        fetched(site, tmp_path)


def test_a_refusal_leaves_nothing_in_the_store(site: Site, other: Site, tmp_path: Path) -> None:
    serve(site, tmp_path, other.url)
    other.routes.clear()
    with pytest.raises(Permanent, match="chart redis of"):
        fetched(site, tmp_path)
    assert not (tmp_path / "store").exists()

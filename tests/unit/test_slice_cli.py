"""`flotilla slice`: the slices of a cluster, read from a slice repository as the hub writes it."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pygit2
import pytest
from aiohttp import web
from anyio import to_thread
from click.testing import Result

from hub.api import http
from hub.api.bundles import Bundles
from hub.loop import Loop
from hub.model import Fleet
from hub.slices import trees
from hub.slices.compose import HISTORY_S, Composed, compose
from hub.slices.gitstore import GitStore
from proto.ids import BundleName, ClusterName, Oid
from proto.objects import canonical
from proto.slices import POLICY_FILE, BundleEntry, with_membership
from tests.unit.test_diff_cli import run

REVISION = Oid("1234567890abcdef1234567890abcdef12345678")
T0 = 1_700_000_000


def subtree(store: GitStore, bundle: str, **data: str) -> Oid:
    """A bundle with one ConfigMap and a Secret."""
    metadata = {"name": "web", "namespace": "shop"}
    objects = {
        "shop/ConfigMap/web.json": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data},
        "shop/Secret/web.json": {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"k": "aHVudGVy"}},
    }
    files = {path: canonical(with_membership(obj, bundle)) for path, obj in objects.items()}
    oid, made = trees.subtree({**files, POLICY_FILE: canonical({"name": bundle})})
    store.write(made)
    return oid


def move(store: GitStore, cluster: str, before: Composed | None, oid: Oid, *, time_s: int, wave: str = "") -> Composed:
    made = compose(
        cluster=ClusterName(cluster),
        seq=before.seq + 1 if before else 1,
        parent=before.commit if before else None,
        parent_time_s=before.time_s if before else 0,
        current=before.manifest if before else None,
        changes={BundleName("shop"): BundleEntry(subtree=oid, revision=REVISION, rollout="shop-1")},
        keys=store.keys,
        time_s=time_s,
        trailers=[("Wave", wave)] if wave else [],
    )
    assert made is not None
    store.write(made.objects)
    store.set_ref(cluster, made.commit)
    return made


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    store = GitStore.create(tmp_path / "slices.git")
    first = move(store, "eu-1", None, subtree(store, "shop", a="one"), time_s=T0, wave="canary")
    second = move(store, "eu-1", first, subtree(store, "shop", a="two"), time_s=T0 + 60, wave="eu")
    # A checkpoint: its predecessor is named, not its parent.
    move(store, "eu-1", second, subtree(store, "shop", a="three"), time_s=T0 + HISTORY_S)
    move(store, "us-1", None, subtree(store, "shop", a="other"), time_s=T0)
    return tmp_path / "slices.git"


def slice_(repo: Path, *args: str) -> Result:
    return run("slice", *args, "--repo", repo)


def log(repo: Path, *args: str) -> list[dict[str, Any]]:
    result = slice_(repo, "log", "eu-1", "--output", "json", *args)
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_the_log_has_every_slice_with_its_trailers_across_checkpoints(repo: Path) -> None:
    found = log(repo)
    assert [entry["seq"] for entry in found] == [3, 2, 1]
    assert [entry["trailers"].get("Wave") for entry in found] == [None, ["eu"], ["canary"]]
    assert found[2]["trailers"]["Source-Revision"] == [REVISION]
    assert found[2]["time"] == "2023-11-14T22:13:20Z"
    assert found[2]["change"] == "shop at 1234567890ab"
    text = slice_(repo, "log", "eu-1").stdout.splitlines()
    assert text[0].split() == ["SEQ", "COMMIT", "TIME", "WAVE", "ROLLOUT", "REVISION", "WHAT"]
    assert text[3].split()[3:] == ["canary", "shop-1", "1234567890ab", "shop", "at", "1234567890ab"]
    assert len(log(repo, "--number", "2")) == 2


def test_show_has_manifest_and_objects_without_values_of_secrets(repo: Path) -> None:
    text = slice_(repo, "show", "eu-1", "2").stdout
    assert text.startswith("eu-1 #2  ")
    assert "shop    ConfigMap/shop/web\n" in text
    full = slice_(repo, "show", "eu-1", "2", "--output", "json")
    answer = json.loads(full.stdout)
    assert (answer["seq"], answer["bundles"]["shop"]["rollout"]) == (2, "shop-1")
    config, secret = answer["objects"]
    assert (config["data"], secret["data"]) == ({"a": "two"}, {"k": "(hidden)"})
    assert config["metadata"] == {"name": "web", "namespace": "shop"}
    assert "aHVudGVy" not in full.output + slice_(repo, "show", "eu-1", "--output", "yaml").output


@pytest.mark.parametrize(
    ("name", "value"),
    [("1", "one"), ("#2", "two"), ("~0", "three"), ("~2", "one"), ("", "three"), ("ID", "two")],
)
def test_a_slice_is_named_by_number_distance_or_id(repo: Path, name: str, value: str) -> None:
    name = log(repo)[1]["commit"][:9] if name == "ID" else name
    answer = json.loads(slice_(repo, "show", "eu-1", name, "--output", "json").stdout)
    assert answer["objects"][0]["data"] == {"a": value}


def test_diff_tells_fields_and_exits_as_diff_does(repo: Path) -> None:
    result = slice_(repo, "diff", "eu-1", "1..2")
    assert result.exit_code == 1
    assert "~ ConfigMap/shop/web" in result.stdout
    assert 'data.a: "one" → "two"' in result.stdout
    assert 'data.a: "two" → "three"' in slice_(repo, "diff", "eu-1").stdout
    assert 'data.a: "one" → "three"' in slice_(repo, "diff", "eu-1", "1").stdout
    same = slice_(repo, "diff", "eu-1", "1..1")
    assert (same.exit_code, same.stdout) == (0, "nothing differs: eu-1 #1 → eu-1 #1\n")
    answer = json.loads(slice_(repo, "diff", "eu-1", "1..2", "-o", "json").stdout)
    assert answer["changes"][0]["fields"] == [{"path": "data.a", "before": "one", "after": "two"}]
    assert "<summary>" in slice_(repo, "diff", "eu-1", "1..2", "--format", "markdown").stdout


def test_checkout_writes_the_exact_files_once(repo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert slice_(repo, "checkout", "eu-1", "1", "--to", str(out)).stdout == f"4 files of eu-1 in {out}\n"
    written = sorted(str(path.relative_to(out)) for path in out.rglob("*.json"))
    assert written == [
        "bundles/shop/bundle.json",
        "bundles/shop/shop/ConfigMap/web.json",
        "bundles/shop/shop/Secret/web.json",
        "slice.json",
    ]
    tree, _ = trees.subtree({path: (out / path).read_bytes() for path in written})
    commit = pygit2.Repository(str(repo))[log(repo)[2]["commit"]].peel(pygit2.Commit)
    assert str(commit.tree_id) == tree
    assert slice_(repo, "checkout", "eu-1", "1", "--to", str(out)).exit_code == 2


def test_a_clone_serves_as_well(repo: Path, tmp_path: Path) -> None:
    pygit2.clone_repository(str(repo), str(tmp_path / "clone"), checkout_branch="clusters/eu-1")
    assert [entry["seq"] for entry in log(tmp_path / "clone")][:1] == [3]


def test_a_history_whose_cut_off_part_is_gone_ends_there(repo: Path, tmp_path: Path) -> None:
    mirror = pygit2.init_repository(str(tmp_path / "mirror.git"), bare=True)
    mirror.remotes.create("origin", str(repo)).fetch(["+refs/heads/*:refs/heads/*"])
    assert [entry["seq"] for entry in log(tmp_path / "mirror.git")] == [3]
    result = slice_(tmp_path / "mirror.git", "show", "eu-1", "1")
    assert result.exit_code == 2
    assert "cluster eu-1 has no slice '1'" in result.stderr


def hostile(repo: Path, files: Mapping[str, tuple[int, bytes]]) -> None:
    """A slice of eu-1 whose root holds these names, whatever they are."""
    git = pygit2.Repository(str(repo))
    rows = []
    for name, (mode, data) in sorted(files.items()):
        rows.append(b"%o %s\0" % (mode, name.encode()) + git.create_blob(data).raw)
    tree = git.odb.write(pygit2.enums.ObjectType.TREE, b"".join(rows))
    person = pygit2.Signature("x", "x@example.org", T0, 0)
    git.create_commit("refs/heads/clusters/bad", person, person, "bad #1: x", tree, [])


@pytest.mark.parametrize(
    ("name", "mode"), [("..", 0o100644), (".git", 0o100644), ("link", 0o120000)], ids=["up", "git", "link"]
)
def test_a_hostile_slice_writes_nothing(repo: Path, tmp_path: Path, name: str, mode: int) -> None:
    hostile(repo, {name: (mode, b"/etc/passwd")})
    result = slice_(repo, "checkout", "bad", "--to", str(tmp_path / "out"))
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        pytest.param(["log", "eu-2"], "has no slice of cluster 'eu-2' (did you mean eu-1", id="cluster"),
        pytest.param(["show", "eu-1", "9"], "has no slice '9': name its number (the newest is 3)", id="number"),
        pytest.param(["show", "eu-1", "~9"], "cluster eu-1 has no slice '~9'", id="distance"),
        pytest.param(["diff", "eu-1", "1..nope"], "cluster eu-1 has no slice 'nope'", id="range"),
    ],
)
def test_what_is_not_there_is_told(repo: Path, args: list[str], message: str) -> None:
    result = slice_(repo, *args)
    assert (result.exit_code, message in result.stderr) == (2, True), result.output


def test_a_commit_of_another_cluster_is_refused(repo: Path) -> None:
    other = str(pygit2.Repository(str(repo)).references["refs/heads/clusters/us-1"].target)
    assert slice_(repo, "show", "eu-1", other).exit_code == 2


def test_a_folder_that_is_no_repository_is_told(tmp_path: Path) -> None:
    result = slice_(tmp_path, "log", "eu-1")
    assert result.exit_code == 2
    assert "is not a Git repository" in result.stderr


@pytest.mark.parametrize("command", ["log", "show", "diff", "checkout"])
def test_help_shows_examples(command: str) -> None:
    assert f"Examples:\n    flotilla slice {command}" in run("slice", command, "--help").output


# --- from a hub ---------------------------------------------------------------------------------------------------


class Hub:
    """What `flotilla slice` asks of one: bundles of the slices of a repository; gives their addresses as options."""

    def __init__(self, repo: Path, folder: Path) -> None:
        self.store = GitStore.open(repo)
        self.token = folder / "token"
        self.token.write_text("t0ken")
        self.address = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        tips = {name: self.store.ref(name) for name in ("eu-1", "us-1")}
        rows = {ClusterName(name): SimpleNamespace(commit=tip) for name, tip in tips.items()}
        application = web.Application(middlewares=[http.errors])
        loop = cast(Loop, SimpleNamespace(slices=rows, desired=SimpleNamespace(fleet=Fleet())))
        application.add_routes(Bundles(loop, store=self.store, gate=http.Gate("t0ken")).routes())
        runner = web.AppRunner(application)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
            yield
        finally:
            await runner.cleanup()

    async def __call__(self, *args: str) -> Result:
        options = ("--hub", self.address, "--token-file", str(self.token))
        return await to_thread.run_sync(partial(run, "slice", *args, *options))


@pytest.fixture
def hub(repo: Path, tmp_path: Path) -> Hub:
    return Hub(repo, tmp_path)


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(("log", "eu-1"), id="log"),
        pytest.param(("log", "eu-1", "-o", "json"), id="log across checkpoints"),
        pytest.param(("show", "eu-1"), id="show"),
        pytest.param(("show", "eu-1", "1", "-o", "yaml"), id="show beyond a checkpoint"),
        pytest.param(("diff", "eu-1"), id="diff"),
        pytest.param(("diff", "eu-1", "1..3", "-o", "json"), id="diff across a checkpoint"),
        pytest.param(("diff", "eu-1", "1..1"), id="no difference"),
    ],
)
async def test_a_hub_shows_the_very_same_as_its_repository(hub: Hub, repo: Path, args: tuple[str, ...]) -> None:
    async with hub.serving():
        found = await hub(*args)
    expected = slice_(repo, *args)
    assert (found.exit_code, found.stdout) == (expected.exit_code, expected.stdout)
    assert "aHVudGVy" not in found.output, "no value of a Secret"


async def test_checkout_from_a_hub_writes_the_exact_files(hub: Hub, repo: Path, tmp_path: Path) -> None:
    async with hub.serving():
        assert (await hub("checkout", "eu-1", "2", "--to", str(tmp_path / "online"))).exit_code == 0
    assert slice_(repo, "checkout", "eu-1", "2", "--to", str(tmp_path / "offline")).exit_code == 0
    files = [path.relative_to(tmp_path / "offline") for path in (tmp_path / "offline").rglob("*.json")]
    assert len(files) == 4
    for path in files:
        assert (tmp_path / "online" / path).read_bytes() == (tmp_path / "offline" / path).read_bytes()


@pytest.mark.parametrize(
    ("args", "token", "says"),
    [
        pytest.param(("log", "eu-1"), "wrong", "needs the administrator's token", id="another token"),
        pytest.param(("log", "eu-1"), "", "needs the administrator's token", id="no token"),
        pytest.param(("diff", "eu-2"), "t0ken", "has no slice", id="no such cluster"),
        pytest.param(("show", "../us-1"), "t0ken", "has no slice", id="no name"),
        pytest.param(("show", "eu-1", "9"), "t0ken", "has no slice '9'", id="no such slice"),
    ],
)
async def test_what_a_hub_does_not_show_is_told_and_is_no_difference(
    hub: Hub, args: tuple[str, ...], token: str, says: str
) -> None:
    hub.token.write_text(token)
    async with hub.serving():
        found = await hub(*args)
    assert (found.exit_code, says in found.stderr) == (2, True), found.output


async def test_another_clusters_commits_are_not_even_sent(hub: Hub) -> None:
    other = hub.store.ref("us-1") or ""
    async with hub.serving():
        assert (await hub("show", "eu-1", other)).exit_code == 2
        assert (await hub("show", "us-1", other)).exit_code == 0


async def test_a_hub_that_is_away_or_answers_nonsense_is_told(hub: Hub) -> None:
    hub.address = "http://127.0.0.1:9"
    assert "no hub answers at http://127.0.0.1:9" in (await hub("log", "eu-1")).stderr
    application = web.Application()
    application.router.add_post("/{path:.*}", _nonsense)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    hub.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    found = await hub("log", "eu-1")
    await runner.cleanup()
    assert (found.exit_code, "is no slice of eu-1" in found.stderr) == (2, True), found.output


async def _nonsense(request: web.Request) -> web.Response:
    return web.Response(text="<html>")

"""`flotilla bundle export | import`: files that stock git reads, from the repository and from a hub."""

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio.to_thread
import pytest
from aiohttp import web
from click.testing import Result

from agent.stream.receive import Receiver
from hub.api import http
from hub.api.bundles import Bundles
from hub.loop import Loop
from hub.model import Fleet
from hub.slices.compose import HISTORY_S, Composed
from hub.slices.gitstore import GitStore
from proto.ids import ClusterName, slice_ref
from tests.signing import needs
from tests.signing import run as run_tool
from tests.unit.test_diff_cli import run
from tests.unit.test_slice_cli import T0, move, subtree

TOKEN = "let-me-in"


class Slices:
    """A slice repository with some slices of eu-1."""

    def __init__(self, folder: Path) -> None:
        needs("git")
        self.path = folder / "slices.git"
        self.store = GitStore.create(self.path)
        self.made: list[Composed] = []

    def move(self, *, after_s: int = 60) -> Composed:
        before = self.made[-1] if self.made else None
        oid = subtree(self.store, "shop", color=f"shade-{len(self.made)}", text="much " * 200)
        time_s = before.time_s + after_s if before else T0
        self.made.append(move(self.store, "eu-1", before, oid, time_s=time_s))
        return self.made[-1]

    def export(self, output: Path, *options: str) -> Result:
        return run("bundle", "export", "eu-1", "--repo", str(self.path), "-o", str(output), *options)


@pytest.fixture
def slices(tmp_path: Path) -> Slices:
    made = Slices(tmp_path)
    for _ in range(4):
        made.move()
    return made


def git(folder: Path, *arguments: str) -> str:
    return run_tool("git", *arguments, cwd=folder)


def test_stock_git_verifies_and_clones_a_whole_bundle(slices: Slices, tmp_path: Path) -> None:
    file = tmp_path / "eu-1.bundle"
    done = slices.export(file)

    assert (done.exit_code, done.output) == (
        0,
        f"eu-1 at {slices.made[-1].commit[:12]}, {_objects(file)} objects, whole in {file}\n",
    )
    assert file.read_bytes().startswith(b"# v2 git bundle\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600, "it holds Secrets"
    git(tmp_path, "init", "-q", "empty")
    assert "records a complete history" in git(tmp_path / "empty", "bundle", "verify", str(file))
    git(tmp_path, "clone", "-q", str(file), "clone")
    assert git(tmp_path / "clone", "branch", "--show-current").strip() == "clusters/eu-1"
    assert (tmp_path / "clone" / "slice.json").is_file()
    log = git(tmp_path / "clone", "log", "--format=%H").split()
    assert log == [made.commit for made in reversed(slices.made)]
    git(tmp_path / "clone", "fsck", "--strict")


def test_a_bundle_can_go_through_a_pipe(slices: Slices, tmp_path: Path) -> None:
    assert slices.export(tmp_path / "eu-1.bundle").exit_code == 0
    piped = slices.export(Path("-"))
    assert piped.stdout_bytes == (tmp_path / "eu-1.bundle").read_bytes()
    assert "whole" in piped.stderr


def _objects(file: Path) -> int:
    data = file.read_bytes()
    at = data.index(b"\n\n") + 2
    return int.from_bytes(data[at + 8 : at + 12], "big")


@pytest.mark.parametrize("name", [pytest.param("2", id="number"), pytest.param("", id="commit")])
def test_an_incremental_bundle_goes_on_from_a_slice(slices: Slices, tmp_path: Path, name: str) -> None:
    whole, part = tmp_path / "whole.bundle", tmp_path / "part.bundle"
    base = slices.made[1].commit
    assert slices.export(whole).exit_code == 0
    done = slices.export(part, "--since", name or base[:10])

    assert f"after {base[:12]}" in done.output
    assert part.read_bytes().splitlines()[1] == f"-{base}".encode()
    assert part.stat().st_size < whole.stat().st_size
    git(tmp_path, "init", "-q", "--bare", "mirror.git")
    with pytest.raises(Exception, match="non-zero exit status"):
        git(tmp_path / "mirror.git", "bundle", "verify", str(part))
    git(tmp_path / "mirror.git", "fetch", "-q", str(slices.path), f"{base}:{slice_ref('eu-1')}")
    git(tmp_path / "mirror.git", "bundle", "verify", str(part))
    git(tmp_path / "mirror.git", "fetch", "-q", str(part), f"{slice_ref('eu-1')}:{slice_ref('eu-1')}")
    git(tmp_path / "mirror.git", "fsck", "--strict")
    assert git(tmp_path / "mirror.git", "rev-parse", slice_ref("eu-1")).strip() == slices.made[-1].commit


async def test_an_agent_takes_what_was_exported_also_across_a_checkpoint(slices: Slices, tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "state", "eu-1")
    file = tmp_path / "eu-1.bundle"
    assert slices.export(file).exit_code == 0
    assert await receiver.unbundle(file)
    slices.move()
    assert slices.export(file, "--since", str(receiver.desired().seq)).exit_code == 0
    assert await receiver.unbundle(file)
    checkpoint = slices.move(after_s=HISTORY_S + 1)

    cut = slices.export(file, "--since", str(receiver.desired().seq))
    assert cut.exit_code == 1
    assert "between its newest, #6, and its last checkpoint" in cut.output
    assert "export the whole slice without --since" in cut.output
    assert slices.export(file).exit_code == 0
    assert await receiver.unbundle(file)
    assert receiver.desired().commit == checkpoint.commit


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(("eu-1", "--since", "4"), "has nothing after #4", id="nothing new"),
        pytest.param(("eu-1", "--since", "9"), "has no '9'", id="no such slice"),
        pytest.param(("eu-1", "--since", "abc"), "has no 'abc'", id="too short an id"),
        pytest.param(("eu-2",), "did you mean eu-1?", id="no such cluster"),
        pytest.param(("EU/..",), "not a valid name", id="no name"),
    ],
)
def test_what_cannot_be_exported_is_said(slices: Slices, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    file = tmp_path / "a.bundle"
    done = run("bundle", "export", "--repo", str(slices.path), "-o", str(file), *arguments)
    assert done.exit_code == 1
    assert says in done.output
    assert not file.exists()


def test_import_checks_a_file_and_puts_it_whole_where_the_agent_looks(slices: Slices, tmp_path: Path) -> None:
    file, folder = tmp_path / "eu-1.bundle", tmp_path / "inside"
    folder.mkdir()
    assert slices.export(file).exit_code == 0
    looked = run("bundle", "import", str(file))
    assert (looked.exit_code, list(folder.iterdir())) == (0, [])
    assert looked.output == f"eu-1 at {slices.made[-1].commit[:12]}, {_objects(file)} objects, whole\n"

    assert run("bundle", "import", str(file), "--to", str(folder)).exit_code == 0
    assert [(each.name, each.read_bytes()) for each in folder.iterdir()] == [("eu-1.bundle", file.read_bytes())]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda data: data[:-1], "cut off", id="cut off"),
        pytest.param(lambda data: data[:30], "cut off", id="cut in its header"),
        pytest.param(lambda data: data.replace(b"clusters/", b"somewhat/"), "has no slice, but", id="no slice"),
        pytest.param(lambda data: b"x" + data, "is no git bundle", id="no bundle"),
    ],
)
def test_a_wrong_file_is_not_imported(slices: Slices, tmp_path: Path, change: Any, says: str) -> None:
    file, folder = tmp_path / "eu-1.bundle", tmp_path / "inside"
    folder.mkdir()
    assert slices.export(file).exit_code == 0
    os.chmod(file, 0o644)
    file.write_bytes(change(file.read_bytes()))
    done = run("bundle", "import", str(file), "--to", str(folder))
    assert done.exit_code == 1
    assert says in done.output
    assert list(folder.iterdir()) == []


# --- from a hub ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def hub(slices: Slices) -> AsyncIterator[str]:
    """Only what the export needs of one; gives its address."""
    row = SimpleNamespace(commit=slices.made[-1].commit)
    loop = cast(Loop, SimpleNamespace(slices={ClusterName("eu-1"): row}, desired=SimpleNamespace(fleet=Fleet())))
    application = web.Application(middlewares=[http.errors])
    application.add_routes(Bundles(loop, store=slices.store, gate=http.Gate(TOKEN)).routes())
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def from_hub(address: str, tmp_path: Path, *arguments: str, token: str = TOKEN) -> Result:
    (tmp_path / "token").write_text(token)
    options = ("--hub", address, "--token-file", str(tmp_path / "token"), "-o", str(tmp_path / "hub.bundle"))
    return await anyio.to_thread.run_sync(partial(run, "bundle", "export", *arguments, *options))


async def test_a_hub_gives_the_very_bytes_that_its_repository_gives(slices: Slices, tmp_path: Path) -> None:
    async with hub(slices) as address:
        for options in ((), ("--since", "2")):
            assert (await from_hub(address, tmp_path, "eu-1", *options)).exit_code == 0
            assert slices.export(tmp_path / "repo.bundle", *options).exit_code == 0
            assert (tmp_path / "hub.bundle").read_bytes() == (tmp_path / "repo.bundle").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "token", "says"),
    [
        pytest.param(("eu-1",), "wrong", "needs the administrator's token", id="wrong token"),
        pytest.param(("eu-2",), TOKEN, "cluster eu-2: is not in the fleet repo and has no slice", id="no such cluster"),
        pytest.param(("eu-1", "--since", "7"), TOKEN, "has no '7'", id="no such slice"),
    ],
)
async def test_what_a_hub_refuses_is_said(
    slices: Slices, tmp_path: Path, arguments: tuple[str, ...], token: str, says: str
) -> None:
    async with hub(slices) as address:
        done = await from_hub(address, tmp_path, *arguments, token=token)
    assert done.exit_code == 1
    assert says in done.output
    assert not (tmp_path / "hub.bundle").exists()


async def test_a_bundle_that_breaks_off_is_no_file(
    slices: Slices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(oid: str) -> bytes:
        raise http.NotFound(f"Git object {oid}", "is missing")

    async with hub(slices) as address:
        monkeypatch.setattr(slices.store, "entry", broken)
        done = await from_hub(address, tmp_path, "eu-1")
    assert done.exit_code == 1
    assert not (tmp_path / "hub.bundle").exists()

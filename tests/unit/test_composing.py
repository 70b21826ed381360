"""`flotilla bundle export --fleet`: slices of a cluster that no hub hears, made from commits of the fleet repo."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from agent.stream.receive import Receiver
from agent.stream.signed import SliceSigners
from hub.slices.gitstore import GitStore
from tests.signing import SshKey
from tests.unit.test_diff_cli import FLEET, WEB, commit, run

MOTD = "bundles/shop/motd.yaml"


class Site:
    """A fleet repo, and an air-gapped cluster's repository of slices and agent."""

    def __init__(self, folder: Path) -> None:
        self.fleet = folder / "fleet"
        self.fleet.mkdir()
        self.repo = folder / "eu-1.git"
        self.file = folder / "eu-1.bundle"
        commit(self.fleet, FLEET)

    def export(self, *options: str, cluster: str = "eu-1", repo: Path | None = None) -> Result:
        place = ("--fleet", str(self.fleet), "--repo", str(repo or self.repo), "-o", str(self.file))
        return run("bundle", "export", cluster, *place, *options)

    def tip(self, repo: Path | None = None) -> str | None:
        return GitStore.create(repo or self.repo).ref("eu-1")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_each_commit_of_the_fleet_repo_is_a_slice_that_the_agent_takes(site: Site, tmp_path: Path) -> None:
    receiver = Receiver(tmp_path / "state", "eu-1")
    assert site.export().exit_code == 0
    assert await receiver.unbundle(site.file)
    first = receiver.desired()
    assert (first.seq, sorted(first.bundles)) == (1, ["base", "shop"])

    then = commit(site.fleet, {WEB: FLEET[WEB].replace("web:1", "web:2")})
    assert site.export("--since", "1").exit_code == 0
    assert await receiver.unbundle(site.file)
    second = receiver.desired()
    assert (second.seq, second.bundles["shop"].revision) == (2, then)
    assert second.bundles["base"] == first.bundles["base"], "what stays keeps the revision that brought it"

    commit(site.fleet, {path: None for path in FLEET if path.startswith("bundles/shop/")})
    assert site.export().exit_code == 0
    assert await receiver.unbundle(site.file)
    assert sorted(receiver.desired().bundles) == ["base"]


def test_a_repetition_adds_nothing(site: Site) -> None:
    assert site.export().exit_code == 0
    before, tip = site.file.read_bytes(), site.tip()
    commit(site.fleet, {"README.md": "nothing of a bundle\n"})
    again = site.export()
    assert (again.exit_code, site.file.read_bytes(), site.tip()) == (0, before, tip)
    assert "changes nothing on eu-1" in again.output


def test_equal_commits_give_equal_slices_wherever_they_are_made(site: Site, tmp_path: Path) -> None:
    other = tmp_path / "other" / "eu-1.git"
    for text in ("web:1", "web:2", "web:3"):
        commit(site.fleet, {WEB: FLEET[WEB].replace("web:1", text)})
        assert site.export().exit_code == 0
        assert site.export(repo=other).exit_code == 0
        assert site.tip() == site.tip(other)


def test_an_older_revision_moves_the_slice_forward_to_what_was(site: Site) -> None:
    commit(site.fleet, {WEB: FLEET[WEB].replace("web:1", "web:2")})
    assert site.export().exit_code == 0
    assert site.export("--revision", "HEAD~1").exit_code == 0
    store = GitStore.create(site.repo)
    tip = store.ref("eu-1")
    assert tip is not None
    assert store.manifest(tip).seq == 2


async def test_it_is_signed_with_the_key_that_is_given(site: Site, tmp_path: Path) -> None:
    key = SshKey(tmp_path, "ada")
    signers = tmp_path / "signers"
    _write(signers, f"{key.signer()}\n")
    assert site.export("--slice-signing-key", str(key.file)).exit_code == 0
    assert await Receiver(tmp_path / "state", "eu-1", signers=SliceSigners(signers)).unbundle(site.file)


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def broken(site: Site) -> None:
    commit(site.fleet, {WEB: FLEET[WEB].replace("${domain}", "${unknown}")})


def broken_bundle_file(site: Site) -> None:
    path = "bundles/base/bundle.yaml"
    commit(site.fleet, {path: FLEET[path].replace("targets", "targetts")})


def a_hubs_own(site: Site) -> None:
    (site.repo.parent / "journal.db").touch()


def decommissioned(site: Site) -> None:
    path = "clusters/all.yaml"
    commit(
        site.fleet,
        {path: FLEET[path].replace("{variables: {domain: eu", "{decommission: prune, variables: {domain: eu")},
    )


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        pytest.param(broken, "unknown", id="a bundle that does not render"),
        pytest.param(broken_bundle_file, "targetts", id="a bundle that cannot be read"),
        pytest.param(a_hubs_own, "is a hub's own", id="the hub's slices"),
        pytest.param(decommissioned, "is being decommissioned", id="decommissioned"),
    ],
)
def test_what_is_wrong_stops_it_and_the_slice_stays(site: Site, spoil: Callable[[Site], None], says: str) -> None:
    assert site.export().exit_code == 0
    tip = site.tip()
    spoil(site)
    done = site.export()
    assert done.exit_code == 1
    assert says in done.output
    assert site.tip() == tip


def test_what_is_wrong_with_another_cluster_stops_nothing(site: Site) -> None:
    path = "clusters/all.yaml"
    commit(site.fleet, {path: FLEET[path].replace("{name: lab,", "{name: lab, labbels: {},")})
    assert site.export().exit_code == 0


def test_a_cluster_that_is_not_there_is_named(site: Site) -> None:
    done = site.export(cluster="eu-2")
    assert done.exit_code == 1
    assert "cluster 'eu-2' is not in the fleet (did you mean eu-1" in done.output


def test_options_that_need_each_other_say_so(site: Site, tmp_path: Path) -> None:
    alone = run("bundle", "export", "eu-1", "--fleet", str(site.fleet), "-o", str(site.file))
    assert alone.exit_code == 2
    assert "--fleet needs --repo" in alone.output

"""Slices that are signed: composed alike each time, checkpoints too, and taken in by agents that refuse all others."""

import base64
from pathlib import Path
from typing import Any

import pytest

from agent.stream.receive import Receiver
from agent.stream.signed import SliceSigners
from hub.slices import signing
from hub.slices.carrier import Carrier
from hub.slices.compose import HISTORY_S, Composed, compose
from hub.slices.gitstore import GitStore
from hub.slices.trees import subtree
from hub.wiring import Hub
from proto import sshsig
from proto.errors import FlotillaError, InvalidInput
from proto.ids import BundleName, ClusterName, Oid, slice_ref
from proto.messages import GitObject, WakeUp
from proto.objects import canonical
from proto.slices import POLICY_FILE, BundleEntry
from proto.sshsig import CommitSigner, Unsigned
from tests.signing import SshKey, run
from tests.unit import test_hub_main, test_loop

REF = slice_ref("eu-1")
T0 = 1_700_000_000


class SignedHub:
    """Composes slices of eu-1 and stores them, each with the key that it has at that time."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.store = GitStore.create(folder)
        self.made: list[Composed] = []

    def compose(self, key: CommitSigner | None, *, after_s: int = 60) -> Composed:
        before = self.made[-1] if self.made else None
        oid, objects = _subtree(len(self.made))
        self.store.write(objects)
        made = compose(
            cluster=ClusterName("eu-1"),
            seq=before.seq + 1 if before else 1,
            parent=before.commit if before else None,
            parent_time_s=before.time_s if before else 0,
            current=before.manifest if before else None,
            changes={BundleName("shop"): BundleEntry(subtree=oid, revision="r" * 40, rollout="shop-1")},
            keys=self.store.keys,
            time_s=before.time_s + after_s if before else T0,
            sign=key.sign if key is not None else bytes,
        )
        assert made is not None
        return made

    def move(self, key: CommitSigner | None, *, after_s: int = 60) -> WakeUp:
        made = self.compose(key, after_s=after_s)
        self.store.write(made.objects)
        self.store.set_ref("eu-1", made.commit)
        self.made.append(made)
        return WakeUp(seq=made.seq, commit=made.commit, objects=Carrier(self.store).carried(made))


def _subtree(n: int) -> tuple[Oid, Any]:
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web", "namespace": "shop"}, "data": {"n": n}}
    return subtree({"shop/ConfigMap/web.json": canonical(obj), POLICY_FILE: canonical({"name": "shop"})})


@pytest.fixture
def hub(tmp_path: Path) -> SignedHub:
    return SignedHub(tmp_path / "slices.git")


@pytest.fixture
def trusted(tmp_path: Path, key: SshKey) -> Path:
    """The agent's list of signers."""
    file = tmp_path / "signers"
    lists(file, key.signer())
    return file


def lists(file: Path, *signers: str) -> None:
    file.write_text("".join(f"{line}\n" for line in signers))


def gone(file: Path) -> None:
    file.unlink()


@pytest.fixture
def receiver(tmp_path: Path, trusted: Path) -> Receiver:
    return Receiver(tmp_path / "state", "eu-1", signers=SliceSigners(trusted))


# --- composed -------------------------------------------------------------------------------------------------------


def test_equal_journals_give_equal_commits_with_the_same_key(hub: SignedHub, signer: CommitSigner, key: SshKey) -> None:
    again = signing.load(key.file)
    assert hub.compose(signer).commit == hub.compose(again).commit != hub.compose(None).commit
    hub.move(signer)
    assert hub.compose(signer).objects == hub.compose(again).objects


def test_a_checkpoint_is_signed_and_stock_git_verifies_the_history(
    hub: SignedHub, signer: CommitSigner, key: SshKey, trusted: Path
) -> None:
    for after_s in (60, 60, HISTORY_S + 1, 60):
        hub.move(signer, after_s=after_s)
    allowed = ("-c", "gpg.format=ssh", "-c", f"gpg.ssh.allowedSignersFile={trusted}")
    log = run("git", *allowed, "log", "--format=%H %G? %GS", REF, cwd=hub.path).splitlines()
    # The checkpoint has no parents: what is before it is a history of its own.
    log += run("git", *allowed, "log", "--format=%H %G? %GS", hub.made[1].commit, cwd=hub.path).splitlines()
    assert log == [f"{made.commit} G hub@example.org" for made in (*hub.made[:1:-1], *hub.made[1::-1])]
    run("git", "fsck", "--strict", cwd=hub.path)


async def test_a_rollout_signs_each_move_and_an_agent_takes_its_wake_up(
    signer: CommitSigner, trusted: Path, tmp_path: Path
) -> None:
    async with test_loop.running(tmp_path) as hub:
        hub.loop._sign = signer.sign
        await test_loop.rolled_out(hub, "a", {BundleName("shop"): hub.subtree("shop", "one")})
        for row in hub.loop.slices.values():
            assert sshsig.check_commit(hub.store.read(row.commit), SliceSigners(trusted)._read())
        canary = Receiver(tmp_path / "state", "canary", signers=SliceSigners(trusted))
        [wake] = [wake for cluster, wake in hub.woken if cluster == "canary"]
        assert await canary.offer(wake)


def test_a_hub_signs_with_the_key_it_is_given(key: SshKey, trusted: Path, tmp_path: Path) -> None:
    fleet, data = str(tmp_path / "fleet"), tmp_path / "data"
    hub = Hub(fleet=fleet, branch="main", data=data, poll_s=1.0, heartbeat_s=1.0, slice_key=key.file)
    test_hub_main.closed(hub)
    SliceSigners(trusted).check(hub.loop._sign(b"tree 0\n\nmessage\n"), thing="commit")


# --- taken in -------------------------------------------------------------------------------------------------------


async def by_wake_up(hub: SignedHub, receiver: Receiver, wake: WakeUp, folder: Path) -> bool:
    return await receiver.offer(wake)


async def by_fetch(hub: SignedHub, receiver: Receiver, wake: WakeUp, folder: Path) -> bool:
    return await receiver.fetch(str(hub.path))


async def by_bundle(hub: SignedHub, receiver: Receiver, wake: WakeUp, folder: Path) -> bool:
    run("git", "bundle", "create", "-q", str(folder / "eu-1.bundle"), REF, cwd=hub.path)
    return await receiver.unbundle(folder / "eu-1.bundle")


ways = pytest.mark.parametrize(
    "bring",
    [
        pytest.param(by_wake_up, id="wake-up"),
        pytest.param(by_fetch, id="fetch"),
        pytest.param(by_bundle, id="bundle"),
    ],
)


@ways
async def test_a_signed_slice_is_taken_in(
    hub: SignedHub, receiver: Receiver, signer: CommitSigner, tmp_path: Path, bring: Any
) -> None:
    wake = hub.move(signer)
    assert await bring(hub, receiver, wake, tmp_path)
    assert receiver.desired().commit == wake.commit


@ways
async def test_an_unsigned_slice_is_refused_and_the_old_one_stays(
    hub: SignedHub, receiver: Receiver, signer: CommitSigner, tmp_path: Path, bring: Any
) -> None:
    first = hub.move(signer)
    assert await receiver.offer(first)
    with pytest.raises(Unsigned, match=r"slice of cluster eu-1 at \w+: is not signed") as refused:
        await bring(hub, receiver, hub.move(None), tmp_path)
    assert "--slice-signing-key" in refused.value.remedy
    assert receiver.desired().commit == first.commit


@ways
async def test_a_slice_signed_by_another_key_is_refused_and_that_key_is_named(
    hub: SignedHub, receiver: Receiver, signer: CommitSigner, tmp_path: Path, bring: Any
) -> None:
    assert await receiver.offer(hub.move(signer))
    other = signing.load(SshKey(tmp_path, "mallory").file)
    fingerprint = sshsig.fingerprint(bytes(other.key.verify_key))
    with pytest.raises(Unsigned, match="which is no trusted signer") as refused:
        await bring(hub, receiver, hub.move(other), tmp_path)
    assert fingerprint in refused.value.cause
    assert receiver.desired().seq == 1


@ways
async def test_a_first_slice_that_is_not_signed_is_no_first_slice(
    hub: SignedHub, receiver: Receiver, tmp_path: Path, bring: Any
) -> None:
    with pytest.raises(Unsigned):
        await bring(hub, receiver, hub.move(None), tmp_path)
    assert receiver.desired().seq == 0


async def test_another_tree_under_a_stolen_signature_is_refused(
    hub: SignedHub, receiver: Receiver, signer: CommitSigner
) -> None:
    first = hub.move(signer)
    wake = hub.move(None)
    signed = hub.store.read(hub.made[0].commit)
    header = signed[signed.index(b"\ngpgsig") : signed.index(b"\n\n")]
    head, blank, message = hub.store.read(Oid(wake.commit)).partition(b"\n\n")
    forged = head + header + blank + message
    assert await receiver.offer(first)
    [commit] = hub.store.write([("commit", forged)])
    objects = (GitObject(kind="commit", data=forged), *wake.objects)
    with pytest.raises(Unsigned, match="does not fit its signature"):
        await receiver.offer(WakeUp(seq=2, commit=commit, objects=objects))


# --- over time ------------------------------------------------------------------------------------------------------


@ways
async def test_signing_begins_in_the_middle_of_a_history(
    hub: SignedHub, receiver: Receiver, signer: CommitSigner, trusted: Path, tmp_path: Path, bring: Any
) -> None:
    """Only the commit that is taken has to be signed: what an agent had before stays, and is gone on from."""
    unsigned = hub.move(None)
    assert await Receiver(tmp_path / "old", "eu-1").offer(unsigned)
    old = Receiver(tmp_path / "old", "eu-1", signers=SliceSigners(trusted))
    assert old.desired().commit == unsigned.commit
    wake = hub.move(signer)
    assert await bring(hub, old, wake, tmp_path)
    assert await receiver.fetch(str(hub.path)), "a new agent gets the whole history"
    assert old.desired().commit == receiver.desired().commit == wake.commit


async def test_the_key_is_changed_without_a_restart(
    hub: SignedHub, receiver: Receiver, signer: CommitSigner, key: SshKey, trusted: Path, tmp_path: Path
) -> None:
    assert await receiver.offer(hub.move(signer))
    new = SshKey(tmp_path, "new")
    lists(trusted, key.signer(), new.signer())
    assert await receiver.offer(hub.move(signer))
    assert await receiver.offer(hub.move(signing.load(new.file)))
    lists(trusted, new.signer())
    with pytest.raises(Unsigned, match="no trusted signer"):
        await receiver.offer(hub.move(signer))
    assert receiver.desired().seq == 3


async def test_a_list_that_is_gone_or_broken_trusts_nobody(
    hub: SignedHub, receiver: Receiver, signer: CommitSigner, key: SshKey, trusted: Path
) -> None:
    assert await receiver.offer(hub.move(signer))
    wake = hub.move(signer)
    for broken in ((), ("hub nonsense",), None):
        lists(trusted, *(broken or ()))
        if broken is None:
            gone(trusted)
        with pytest.raises(FlotillaError, match="slice signers"):
            await receiver.offer(wake)
    assert receiver.desired().seq == 1
    lists(trusted, key.signer())
    assert await receiver.offer(wake)


def test_a_wrong_list_is_told_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "signers"
    with pytest.raises(InvalidInput, match="No such file"):
        SliceSigners(file)
    file.write_text(f"hub ssh-ed25519 {base64.b64encode(b'short').decode()}\n")
    with pytest.raises(InvalidInput, match="line 1: has a key"):
        SliceSigners(file)

"""Signed commits: stock git and ssh-keygen verify ours, ours are the same each time, and only listed keys count."""

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.slices import signing
from proto import sshsig
from proto.errors import InvalidInput
from proto.sshsig import CommitSigner, Unsigned
from tests.signing import Repo, SshKey, run

RAW = (
    b"tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n"
    b"author Flotilla <hub@flotilla.dev> 1700000000 +0000\n"
    b"committer Flotilla <hub@flotilla.dev> 1700000000 +0000\n"
    b"\n"
    b"eu-1 #1: shop at 1234\n\nBundle: shop\n"
)


def signers(*keys: SshKey, options: str = "") -> sshsig.Signers:
    return sshsig.read_signers("\n".join(key.signer(options) for key in keys), what="signers")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "repo")
    made.git("hash-object", "-t", "tree", "-w", "/dev/null")
    return made


def stored(repo: Repo, raw: bytes) -> str:
    (repo.path / "raw").write_bytes(raw)
    return repo.git("hash-object", "-t", "commit", "-w", "raw").strip()


def verified(repo: Repo, commit: str, allowed: str) -> str:
    (repo.path / "allowed").write_text(f"{allowed}\n")
    told = ["-c", "gpg.format=ssh", "-c", f"gpg.ssh.allowedSignersFile={repo.path / 'allowed'}"]
    done = subprocess.run(["git", *told, "verify-commit", commit], cwd=repo.path, capture_output=True, text=True)
    return done.stderr if done.returncode == 0 else f"refused: {done.stderr}{done.stdout}"


# --- with stock git -------------------------------------------------------------------------------------------------


def test_stock_git_verifies_what_we_sign(repo: Repo, key: SshKey, signer: CommitSigner, tmp_path: Path) -> None:
    commit = stored(repo, signer.sign(RAW))
    assert 'Good "git" signature for hub@example.org with ED25519 key SHA256:' in verified(repo, commit, key.signer())
    assert "refused" in verified(repo, commit, SshKey(tmp_path, "other").signer())
    assert "refused" in verified(repo, stored(repo, signer.sign(RAW).replace(b"1234", b"4321")), key.signer())
    allowed = ("-c", "gpg.format=ssh", "-c", f"gpg.ssh.allowedSignersFile={repo.path / 'allowed'}")
    (repo.path / "allowed").write_text(f"{key.signer()}\n")
    assert 'Good "git" signature' in repo.git(*allowed, "log", "--show-signature", "-1", commit)
    repo.git("fsck", "--strict")


def test_we_verify_what_stock_git_signs(repo: Repo, key: SshKey) -> None:
    repo.commit(key)
    raw = repo.raw()
    assert sshsig.check_commit(raw, signers(key)) == "hub@example.org"
    with pytest.raises(Unsigned, match="was changed"):
        sshsig.check_commit(raw.replace(b"change", b"danger"), signers(key))


def test_our_signature_is_that_of_ssh_keygen_to_the_byte(key: SshKey, signer: CommitSigner, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(RAW)
    run("ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(key.file), str(tmp_path / "raw"), cwd=tmp_path)
    assert sshsig.split(signer.sign(RAW)) == ((tmp_path / "raw.sig").read_bytes(), RAW)


def test_equal_commits_get_equal_signatures(key: SshKey, signer: CommitSigner) -> None:
    assert signer.sign(RAW) == signing.load(key.file).sign(RAW)
    assert signer.public_key == " ".join(key.public.split()[:2])


# --- what does not count --------------------------------------------------------------------------------------------


def twice(signed: bytes, raw: bytes) -> bytes:
    head, blank, message = signed.partition(b"\n\n")
    return head + head[head.index(b"\ngpgsig") :] + blank + message


def damaged(at: int) -> Callable[[bytes, bytes], bytes]:
    """The signature with one byte of its blob changed."""

    def change(signed: bytes, raw: bytes) -> bytes:
        armored = sshsig.split(signed)[0].decode()
        lines = armored.splitlines()
        blob = bytearray(base64.b64decode("".join(lines[1:-1])))
        blob[at] ^= 1
        text = base64.b64encode(blob).decode()
        made = [lines[0], *(text[i : i + 70] for i in range(0, len(text), 70)), lines[-1]]
        head, blank, message = raw.partition(b"\n\n")
        return head + b"\ngpgsig " + "\n ".join(made).encode() + blank + message

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(lambda signed, raw: raw, "is not signed", id="unsigned"),
        pytest.param(lambda signed, raw: signed.replace(b"shop", b"shed"), "was changed", id="changed text"),
        pytest.param(lambda signed, raw: signed.replace(b"tree 4b", b"tree 5b"), "was changed", id="changed tree"),
        pytest.param(lambda signed, raw: signed + b"\n", "was changed", id="longer"),
        pytest.param(twice, "several signatures", id="two signatures"),
        pytest.param(lambda signed, raw: signed.replace(b"SSH SIG", b"PGP SIG"), "none of an SSH", id="another kind"),
        pytest.param(lambda signed, raw: signed.replace(b"U1NIU0lH", b"U1NI!!!!"), "none of an SSH", id="no base64"),
        pytest.param(
            lambda signed, raw: signed.replace(b"\n -----END SSH SIGNATURE-----", b""), "none of an", id="cut off"
        ),
        pytest.param(damaged(-1), "was changed", id="a changed signature"),
        pytest.param(damaged(9), "none of an SSH", id="another version"),
        pytest.param(damaged(13), "none of an SSH", id="a lying length"),
        pytest.param(damaged(64), "none of an SSH|was changed", id="a changed namespace"),
    ],
)
def test_a_signature_that_does_not_fit_is_refused(
    key: SshKey, signer: CommitSigner, change: Callable[[bytes, bytes], bytes], says: str
) -> None:
    with pytest.raises(Unsigned, match=says):
        sshsig.check_commit(change(signer.sign(RAW), RAW), signers(key))


def test_no_byte_of_a_signed_commit_can_be_changed(key: SshKey, signer: CommitSigner) -> None:
    signed, trusted = signer.sign(RAW), signers(key)
    for at in range(len(signed)):
        changed = bytearray(signed)
        changed[at] ^= 1
        try:
            sshsig.check_commit(bytes(changed), trusted)
        except Unsigned:
            continue
        # Only the line breaks of the armor mean nothing; the tree and the message are as they were.
        assert sshsig.split(bytes(changed))[1] == RAW


def test_a_signature_for_another_purpose_does_not_count(key: SshKey, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(RAW)
    run("ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", str(key.file), str(tmp_path / "raw"), cwd=tmp_path)
    armored = (tmp_path / "raw.sig").read_bytes().strip().replace(b"\n", b"\n ")
    head, blank, message = RAW.partition(b"\n\n")
    with pytest.raises(Unsigned, match="for git"):
        sshsig.check_commit(head + b"\ngpgsig " + armored + blank + message, signers(key))


def test_a_key_that_is_not_listed_is_named(key: SshKey, signer: CommitSigner, tmp_path: Path) -> None:
    other = SshKey(tmp_path, "other")
    with pytest.raises(Unsigned) as error:
        sshsig.check_commit(signer.sign(RAW), signers(other))
    listed = run("ssh-keygen", "-l", "-f", f"{key.file}.pub", cwd=tmp_path)
    assert error.value.cause == f"is signed by {listed.split()[1]}, which is no trusted signer"


def test_while_a_key_changes_both_count(key: SshKey, signer: CommitSigner, tmp_path: Path) -> None:
    new = SshKey(tmp_path, "new")
    both = signers(key, new)
    assert sshsig.check_commit(signer.sign(RAW), both) == "hub@example.org"
    assert sshsig.check_commit(signing.load(new.file).sign(RAW), both) == "new@example.org"


# --- lists of signers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        pytest.param("", id="none"),
        pytest.param('namespaces="git"', id="git"),
        pytest.param('namespaces="file,g*"', id="pattern"),
        pytest.param("namespaces=git", id="no quotes"),
    ],
)
def test_a_signer_counts_for_git(key: SshKey, signer: CommitSigner, options: str) -> None:
    text = f"# who signs slices\n\n  {key.signer(options)} a comment\n"
    assert sshsig.check_commit(signer.sign(RAW), sshsig.read_signers(text, what="signers"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        pytest.param("", "names nobody", id="empty"),
        pytest.param("# hub ssh-ed25519 AAAA", "names nobody", id="a comment"),
        pytest.param("hub KEY", "line 1: is no signer", id="no type"),
        pytest.param("ssh-ed25519 KEY", "line 1: is no signer", id="no name"),
        pytest.param("hub ssh-rsa AAAAB3NzaC1yc2E=", "signed with such keys", id="another type"),
        pytest.param("hub ssh-ed25519 AAAA", "cut off or changed", id="half a key"),
        pytest.param('hub namespaces="file" ssh-ed25519 KEY', "names nobody", id="another namespace"),
        pytest.param('hub namespaces="!git,*" ssh-ed25519 KEY', "names nobody", id="not for git"),
        pytest.param("hub cert-authority ssh-ed25519 KEY", "cert-authority", id="an authority"),
        pytest.param('hub namespaces="git",valid-before="20300101" ssh-ed25519 KEY', "valid-before", id="a time"),
        pytest.param("x" * 20_000, "is no signer", id="endless"),
    ],
)
def test_a_list_that_cannot_be_honoured_is_refused_as_a_whole(key: SshKey, line: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        sshsig.read_signers(line.replace("KEY", key.public.split()[1]), what="signers")


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_that_cannot_sign_is_refused_and_never_quoted(key: SshKey, tmp_path: Path) -> None:
    whole = key.file.read_text()
    secret = tmp_path / "secret"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "word", "-f", str(secret), cwd=tmp_path)
    lines = whole.splitlines()
    for text in (
        secret.read_text(),
        SshKey(tmp_path, "rsa", kind="rsa").file.read_text(),
        "\n".join([*lines[:2], lines[-1]]),
        whole.replace(lines[3], lines[3][::-1]),
        "\n".join(lines[:-1]),
        key.public,
        "",
    ):
        place = tmp_path / "tried"
        place.write_text(text)
        place.chmod(0o600)
        with pytest.raises(InvalidInput, match="no Ed25519 key without a passphrase") as error:
            signing.load(place)
        assert all(line not in str(error.value) for line in lines[1:-1])


def test_a_key_that_everybody_can_read_is_refused(key: SshKey) -> None:
    key.file.chmod(0o644)
    with pytest.raises(InvalidInput, match="open to every user"):
        signing.load(key.file)
    key.file.unlink()
    with pytest.raises(InvalidInput, match="No such file"):
        signing.load(key.file)

"""The verdict on one commit's signature, with commits that git signed with real keys; and signers as text."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.repo import signatures, signers
from hub.repo.signers import Signers
from proto import sshsig
from proto.errors import InvalidInput
from tests.signing import GpgKey, Repo, SshKey, run

KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIGZ6oLwL2vGmPlNrNWJNbBwyvlP1vUZy9aVPvFKuC8Yu"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")


@pytest.fixture
def ada(tmp_path: Path) -> SshKey:
    return SshKey(tmp_path, "ada")


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GpgKey]:
    made = GpgKey(tmp_path_factory.mktemp("gpg"), "gerd")
    yield made
    made.close()


def trusted(*lines: str) -> Signers:
    return signers.read("\n".join(lines), what="signers")


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_commit_signed_with_ssh_is_its_signers(repo: Repo, tmp_path: Path, kind: str) -> None:
    key = SshKey(tmp_path, "ada", kind=kind)
    repo.commit(key)
    verdict = signatures.verify(repo.raw(), trusted(key.signer()))
    assert verdict.problem == ""
    assert verdict.signer.startswith(f"ada@example.org ({kind.upper()} key SHA256:")


def test_a_commit_signed_with_gpg_is_its_signers(repo: Repo, gpg: GpgKey) -> None:
    repo.commit(gpg)
    verdict = signatures.verify(repo.raw(), trusted(gpg.signer()))
    assert verdict == signatures.Verdict(signer=f"gerd <gerd@example.org> ({gpg.fingerprint})")


def test_ssh_and_gpg_signers_stand_in_one_file(repo: Repo, ada: SshKey, gpg: GpgKey) -> None:
    both = trusted("# people", ada.signer('namespaces="git"'), gpg.signer(), "", ada.signer())
    for key in (ada, gpg):
        repo.commit(key)
        assert signatures.verify(repo.raw(), both).problem == ""


def test_a_commit_without_a_signature_is_told_as_such(repo: Repo, ada: SshKey) -> None:
    repo.commit()
    assert signatures.verify(repo.raw(), trusted(ada.signer())).problem == "is not signed"


def test_a_strangers_signature_names_the_key(repo: Repo, ada: SshKey, gpg: GpgKey, tmp_path: Path) -> None:
    eve = SshKey(tmp_path, "eve")
    repo.commit(eve)
    for known in (trusted(ada.signer()), trusted(gpg.signer()), Signers()):
        problem = signatures.verify(repo.raw(), known).problem
        assert problem.startswith("is signed by ED25519 key SHA256:")
        assert problem.endswith("which is no trusted signer")
    repo.commit(gpg)
    for known in (trusted(ada.signer()), Signers()):
        problem = signatures.verify(repo.raw(), known).problem
        assert problem == f"is signed by GPG key {gpg.fingerprint[-16:]}, which is no trusted signer"


@pytest.mark.parametrize("how", ["ssh", "gpg"])
def test_a_commit_that_was_changed_after_it_was_signed_is_refused(
    repo: Repo, ada: SshKey, gpg: GpgKey, how: str
) -> None:
    repo.commit(ada if how == "ssh" else gpg)
    changed = repo.raw().replace(b"\n\nchange", b"\n\nchanged")
    assert "does not fit" in signatures.verify(changed, trusted(ada.signer(), gpg.signer())).problem


@pytest.mark.parametrize(
    "options",
    [
        pytest.param('namespaces="file"', id="for another purpose"),
        pytest.param('valid-before="20200101"', id="no longer"),
        pytest.param('valid-after="20990101"', id="not yet"),
    ],
)
def test_a_signer_counts_only_for_what_and_while_the_line_says(repo: Repo, ada: SshKey, options: str) -> None:
    repo.commit(ada)
    assert "no trusted signer" in signatures.verify(repo.raw(), trusted(ada.signer(options))).problem


def test_a_commit_that_claims_to_be_old_is_no_way_around_the_end_of_a_key(repo: Repo, ada: SshKey) -> None:
    repo.git("commit", "-q", "-S", "--allow-empty", "-m", "x", "--date=2019-01-01T00:00:00Z", key=ada)
    known = trusted(ada.signer('valid-before="20200101"'))
    assert "no trusted signer" in signatures.verify(repo.raw(), known).problem


def test_an_expired_gpg_key_counts_no_more(repo: Repo, tmp_path: Path) -> None:
    key = GpgKey(tmp_path, "old", expires="20210101T000000", made="20200101T000000")
    try:
        program = tmp_path / "gpg-of-old"
        program.write_text('#!/bin/sh\nexec gpg --faked-system-time 20200601T000000 "$@"\n')
        program.chmod(0o700)
        key.options = (*key.options, "-c", f"gpg.program={program}")
        repo.commit(key)
        problem = signatures.verify(repo.raw(), trusted(key.signer())).problem
    finally:
        key.close()
    assert problem == "the GPG key that signed it has expired"


def test_a_revoked_gpg_key_counts_no_more_not_for_older_commits_either(repo: Repo, tmp_path: Path) -> None:
    key = GpgKey(tmp_path, "lost")
    try:
        repo.commit(key)
        assert signatures.verify(repo.raw(), trusted(key.signer())).signer
        made = key.home / "openpgp-revocs.d" / f"{key.fingerprint}.rev"
        made.write_text(made.read_text().replace(":-----BEGIN", "-----BEGIN"))
        run("gpg", "--batch", "--import", str(made), cwd=tmp_path, env=key.env)
        problem = signatures.verify(repo.raw(), trusted(key.signer())).problem
    finally:
        key.close()
    assert problem == "the GPG key that signed it was revoked"


def test_a_signature_for_another_purpose_than_git_is_none(repo: Repo, ada: SshKey, tmp_path: Path) -> None:
    repo.commit()
    raw = repo.raw()
    (tmp_path / "file").write_bytes(raw)
    run("ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", str(ada.file), str(tmp_path / "file"), cwd=tmp_path)
    signature = (tmp_path / "file.sig").read_bytes().strip().replace(b"\n", b"\n ")
    head, blank, message = raw.partition(b"\n\n")
    forged = head + b"\ngpgsig " + signature + blank + message
    assert "does not fit" in signatures.verify(forged, trusted(ada.signer())).problem


@pytest.mark.parametrize(
    ("signature", "problem"),
    [
        pytest.param(b"-----BEGIN SSH SIGNATURE-----\n !!\n -----END SSH SIGNATURE-----", "does not fit", id="ssh"),
        pytest.param(b"-----BEGIN PGP SIGNATURE-----\n \n !!\n -----END PGP SIGNATURE-----", "does not fit", id="gpg"),
        pytest.param(b"-----BEGIN SIGNED MESSAGE-----\n x", "neither SSH nor GPG", id="x509"),
        pytest.param(b"x" * 100_000, "beyond every size", id="huge"),
    ],
)
def test_what_is_no_signature_is_refused(signature: bytes, problem: str, ada: SshKey, gpg: GpgKey) -> None:
    raw = b"tree " + b"1" * 40 + b"\ngpgsig " + signature + b"\n\nx\n"
    assert problem in signatures.verify(raw, trusted(ada.signer(), gpg.signer())).problem


def test_two_signatures_are_refused_whoever_made_them(repo: Repo, ada: SshKey) -> None:
    repo.commit(ada)
    raw = repo.raw()
    start, end = raw.index(b"gpgsig "), raw.index(b"-----END SSH SIGNATURE-----\n") + 28
    twice = raw[:end] + raw[start:end] + raw[end:]
    assert signatures.verify(twice, trusted(ada.signer())).problem == "has several signatures"


def test_a_missing_tool_is_named(repo: Repo, ada: SshKey, gpg: GpgKey, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, package in ((ada, "install openssh-client"), (gpg, "install gpgv")):
        repo.commit(key)
        raw, known = repo.raw(), trusted(ada.signer(), gpg.signer())
        with monkeypatch.context() as bare:
            bare.setenv("PATH", "/nowhere")
            assert package in signatures.verify(raw, known).problem


def test_a_user_whom_ssh_keygen_does_not_know_is_no_fault_of_the_signer(
    repo: Repo, ada: SshKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit(ada)
    raw = repo.raw()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/ssh-keygen").write_text("#!/bin/sh\necho 'No user exists for uid 65532' >&2\nexit 255\n")
    (tmp_path / "bin/ssh-keygen").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin", prepend=":")
    problem = signatures.verify(raw, trusted(ada.signer())).problem
    assert problem.startswith("could not be checked: ssh-keygen says No user exists for uid 65532")


def test_the_parts_of_a_commit_make_the_whole() -> None:
    raw = b"tree t\nauthor a\ngpgsig A\n B\n \n C\nencoding x\n\ngpgsig in the text\n"
    assert sshsig.split(raw) == (b"A\nB\n\nC\n", b"tree t\nauthor a\nencoding x\n\ngpgsig in the text\n")
    assert sshsig.split(b"tree t\n\ngpgsig x\n") == (b"", b"tree t\n\ngpgsig x\n")
    assert sshsig.split(b"") == (b"", b"")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"ssh-ed25519 {KEY}", id="no name"),
        pytest.param("ada@example.org", id="no key"),
        pytest.param("ada@example.org ssh-ed25519 ???", id="no base64"),
        pytest.param("ada@example.org ssh-ed25519 AAAA", id="too short"),
        pytest.param(
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n???\n-----END PGP PUBLIC KEY BLOCK-----", id="broken GPG"
        ),
        pytest.param("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAAA", id="half a GPG key"),
        pytest.param(
            "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n\xe9\n-----END PGP PUBLIC KEY BLOCK-----",
            id="a GPG key not in ASCII",
        ),
        pytest.param("-----BEGIN OPENSSH PRIVATE KEY-----", id="a private key"),
        pytest.param("a " + " " * 30_000 + f"ssh-ed25519 {KEY}", id="an endless line"),
    ],
)
def test_a_line_that_is_no_signer_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="signers"):
        trusted(text)


def test_signers_may_have_options_and_comments() -> None:
    lines = [f'ada,bob namespaces="git,file" ssh-ed25519 {KEY} at work', f"*@example.org\tssh-ed25519\t{KEY}"]
    assert trusted("# all", *lines, "").ssh == tuple(lines)
    assert not trusted("# nobody")

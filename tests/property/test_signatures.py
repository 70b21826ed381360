"""Whatever a commit or a list of signers looks like, it is understood or refused, and never half of each."""

from hypothesis import given
from hypothesis import strategies as st

from hub.repo import signers
from proto import sshsig
from proto.errors import InvalidInput

LINES = st.lists(
    st.sampled_from([b"tree 1", b"gpgsig a", b"gpgsig ", b" b", b" ", b"", b"gpgsig-sha256 x", b"encoding x", b"\xff"]),
    max_size=12,
)
KEY = "AAAAC3NzaC1lZDI1NTE5AAAAIGZ6oLwL2vGmPlNrNWJNbBwyvlP1vUZy9aVPvFKuC8Yu"
TEXTS = st.lists(
    st.sampled_from(
        [
            *("-----BEGIN PGP PUBLIC KEY BLOCK-----", "-----END PGP PUBLIC KEY BLOCK-----", "Version: 1", "", "AAAA"),
            *("=abcd", "# comment", f"ada ssh-ed25519 {KEY}", f'bob namespaces="git" ssh-ed25519 {KEY} x', "ada ssh-"),
        ]
    )
    | st.text(max_size=40),
    max_size=10,
).map("\n".join)


@given(LINES.map(b"\n".join))
def test_signature_and_rest_are_all_of_a_commit_and_its_message_is_never_a_signature(raw: bytes) -> None:
    try:
        signature, payload = sshsig.split(raw)
    except InvalidInput:
        return
    _, blank, message = raw.partition(b"\n\n")
    assert payload.endswith(blank + message)
    assert b"\ngpgsig " not in b"\n" + payload[: len(payload) - len(blank + message)]
    kept = sum(len(line) for line in payload.split(b"\n"))
    assert kept + sum(len(line) for line in signature.split(b"\n")) <= len(raw)
    if not signature:
        assert payload == raw


@given(TEXTS)
def test_a_list_of_signers_is_read_whole_or_refused(text: str) -> None:
    try:
        found = signers.read(text, what="signers")
    except InvalidInput:
        return
    assert all(KEY in line for line in found.ssh)
    assert signers.read("\n".join(found.ssh), what="signers").ssh == found.ssh


def test_reading_signers_takes_time_in_proportion_to_their_size() -> None:
    begins = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n" * 100_000
    spaces = "a" + " " * 9_000 + "ssh-" * 2_000 + " " * 1_000 + "!"
    for text in (begins, "\n".join([spaces] * 100), "a " + "ssh- " * 3_000):
        try:
            signers.read(text, what="signers")
        except InvalidInput:
            continue
        raise AssertionError("is no list of signers")

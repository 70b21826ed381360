"""The verdict on one commit's signature, by SSH or GPG.

The cryptography is `ssh-keygen`'s and `gpgv`'s, whose rules people know: validity, namespaces and
certificates of the one, expiry and revocation of the other. The time counts that the hub has, never the one that a
signature or a commit states. Next: `verification` says which commits are looked at, and whose word counts.
"""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hub import scratch
from hub.repo.signers import Signers
from proto.errors import InvalidInput
from proto.sshsig import MAX_SIGNATURE_BYTES, split

TIME_LIMIT_S = 20.0

_GPG_PROBLEMS = {
    "BADSIG": "its GPG signature does not fit: the commit was changed",
    "EXPKEYSIG": "the GPG key that signed it has expired",
    "REVKEYSIG": "the GPG key that signed it was revoked",
    "EXPSIG": "its GPG signature has expired",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`signer` is who made a good signature, `problem` why there is none; one of the two is ""."""

    signer: str = ""
    problem: str = ""


def verify(raw: bytes, trusted: Signers) -> Verdict:
    """The verdict on a raw commit, by the `trusted` signers and the hub's clock."""
    try:
        signature, payload = split(raw)
    except InvalidInput as error:
        return Verdict(problem=error.cause)
    if not signature:
        return Verdict(problem="is not signed")
    if len(signature) > MAX_SIGNATURE_BYTES:
        return Verdict(problem="has a signature beyond every size")
    with scratch.folder("signature") as place:
        (place / "signature").write_bytes(signature)
        try:
            if signature.startswith(b"-----BEGIN SSH SIGNATURE-----"):
                return _verify_ssh(place, payload, trusted)
            if signature.startswith(b"-----BEGIN PGP SIGNATURE-----"):
                return _verify_gpg(place, payload, trusted)
        except subprocess.TimeoutExpired as error:
            return Verdict(problem=f"could not be checked: {error.cmd[0]} took longer than {TIME_LIMIT_S:g} s")
    return Verdict(problem="is signed in a way that is neither SSH nor GPG")


def _verify_ssh(place: Path, payload: bytes, trusted: Signers) -> Verdict:
    if shutil.which("ssh-keygen") is None:
        return Verdict(problem="is signed with SSH, and the hub has no ssh-keygen (install openssh-client)")
    (place / "allowed").write_bytes("".join(f"{line}\n" for line in trusted.ssh).encode("utf-8", "surrogatepass"))
    signature, allowed = ["-s", str(place / "signature")], ["-f", str(place / "allowed")]
    intact = _run(["ssh-keygen", "-Y", "check-novalidate", "-n", "git", *signature], payload)
    if b"No user exists" in intact.stderr:
        return Verdict(problem=f"could not be checked: ssh-keygen says {_last(intact)} (add it to /etc/passwd)")
    if intact.returncode != 0:
        return Verdict(problem=f"its SSH signature does not fit: {_last(intact)}")
    found = _run(["ssh-keygen", "-Y", "find-principals", *signature, *allowed], b"")
    for name in found.stdout.decode("utf-8", "replace").splitlines() if found.returncode == 0 else ():
        checked = _run(["ssh-keygen", "-Y", "verify", "-n", "git", "-I", name, *signature, *allowed], payload)
        if checked.returncode == 0:
            return Verdict(signer=f"{name} ({_key(checked)})")
    return Verdict(problem=f"is signed by {_key(intact)}, which is no trusted signer")


def _verify_gpg(place: Path, payload: bytes, trusted: Signers) -> Verdict:
    if shutil.which("gpgv") is None:
        return Verdict(problem="is signed with GPG, and the hub has no gpgv (install gpgv)")
    (place / "payload").write_bytes(payload)
    (place / "keyring").write_bytes(trusted.gpg)
    command = ["gpgv", "--homedir", str(place), "--status-fd", "1", "--weak-digest", "SHA1"]
    told = _run([*command, "--keyring", str(place / "keyring"), str(place / "signature"), str(place / "payload")], b"")
    lines = [line.split(" ") for line in told.stdout.decode("utf-8", "replace").splitlines()]
    status = {words[1]: words[2:] for words in lines if words[0] == "[GNUPG:]" and len(words) > 1}
    if sum(words[1:2] == ["NEWSIG"] for words in lines) > 1:
        return Verdict(problem="has several signatures")
    for word, problem in _GPG_PROBLEMS.items():
        if word in status:
            return Verdict(problem=problem)
    if told.returncode == 0 and {"GOODSIG", "VALIDSIG"} <= status.keys():
        return Verdict(signer=f"{' '.join(status['GOODSIG'][1:])} ({status['VALIDSIG'][0]})")
    if "NO_PUBKEY" in status:
        return Verdict(problem=f"is signed by GPG key {status['NO_PUBKEY'][0]}, which is no trusted signer")
    return Verdict(problem=f"its GPG signature does not fit: {_last(told)}")


def _run(command: Sequence[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=given, capture_output=True, timeout=TIME_LIMIT_S, check=False)


def _key(told: subprocess.CompletedProcess[bytes]) -> str:
    """The key's type and fingerprint, as ssh-keygen ends its sentence."""
    return told.stdout.decode("utf-8", "replace").strip().rpartition(" with ")[2]


def _last(told: subprocess.CompletedProcess[bytes]) -> str:
    lines = told.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else f"code {told.returncode}"

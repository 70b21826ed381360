"""People who sign commits with real keys, made by ssh-keygen and gpg; tests that need a missing tool are skipped."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest


def needs(*tools: str) -> None:
    """Skip the test that asks, naming the tool that is not there."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")


def run(*command: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(cwd), "GIT_CONFIG_NOSYSTEM": "1", **(env or {})}
    return subprocess.run(command, cwd=cwd, env=environment, check=True, capture_output=True, text=True).stdout


class SshKey:
    """Somebody's SSH key."""

    def __init__(self, folder: Path, name: str, *, kind: str = "ed25519") -> None:
        needs("git", "ssh-keygen")
        self.name, self.file = name, folder / f"{name}-{kind}"
        run("ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "", "-f", str(self.file), cwd=folder)
        self.public = self.file.with_suffix(".pub").read_text().strip()
        self.options = ("-c", "gpg.format=ssh", "-c", f"user.signingkey={self.file}.pub")
        self.env: Mapping[str, str] = {}

    def signer(self, options: str = "") -> str:
        """As `allowed_signers` has it."""
        return " ".join(word for word in (f"{self.name}@example.org", options, self.public) if word)


class GpgKey:
    """Somebody's GPG key, with a home folder of its own."""

    def __init__(self, folder: Path, name: str, *, expires: str = "0", made: str = "") -> None:
        needs("git", "gpg", "gpgv")
        self.name, self.home = name, folder / f"gpg-{name}"
        self.home.mkdir(mode=0o700)
        self.env: Mapping[str, str] = {"GNUPGHOME": str(self.home)}
        who = f"{name} <{name}@example.org>"
        quiet = ("gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")
        then = ("--faked-system-time", made) if made else ()
        run(*quiet, *then, "--quick-gen-key", who, "ed25519", "sign", expires, cwd=folder, env=self.env)
        listed = run("gpg", "--batch", "--list-keys", "--with-colons", cwd=folder, env=self.env)
        self.fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
        self.options: tuple[str, ...] = ("-c", f"user.signingkey={self.fingerprint}")

    def signer(self) -> str:
        """The armored public key."""
        return run("gpg", "--batch", "--armor", "--export", cwd=self.home, env=self.env)

    def close(self) -> None:
        """Stop the agent that gpg started."""
        run("gpgconf", "--kill", "all", cwd=self.home, env=self.env)


class Repo:
    """A repository whose commits people sign."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str, key: SshKey | GpgKey | None = None) -> str:
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        return run("git", *who, *(key.options if key else ()), *arguments, cwd=self.path, env=key.env if key else None)

    def commit(self, key: SshKey | GpgKey | None = None, *, signers: tuple[str, ...] | None = None) -> str:
        """A commit signed with `key`; with `signers` its fleet.yaml lists those from then on."""
        if signers is not None:
            listed = "".join("  - |\n" + "".join(f"    {line}\n" for line in s.splitlines()) for s in signers)
            head = "apiVersion: flotilla.dev/v1alpha1\nkind: Fleet\nmetadata: {name: fleet}\nspec:\n"
            (self.path / "fleet.yaml").write_text(
                f"{head}  signers:\n{listed}" if signers else f"{head}  signers: []\n"
            )
            self.git("add", "fleet.yaml")
        self.git("commit", "-q", "--allow-empty", "-m", "change", *(("-S",) if key else ()), key=key)
        return self.head()

    def head(self) -> str:
        return self.git("rev-parse", "HEAD").strip()

    def raw(self, commit: str = "HEAD") -> bytes:
        return self.git("cat-file", "commit", commit).encode()

"""What several test modules start from: a Git repository that is served, and an SSH key that signs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.slices import signing
from proto.sshsig import CommitSigner
from tests.served import Repo, Served, serving
from tests.signing import SshKey


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """A repository in what `served` serves."""
    return Repo(tmp_path / "served/app.git")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "served") as made:
        yield made


@pytest.fixture
def key(tmp_path: Path) -> SshKey:
    return SshKey(tmp_path, "hub")


@pytest.fixture
def signer(key: SshKey) -> CommitSigner:
    return signing.load(key.file)

"""Which commits are taken by their signatures: through real fetches of commits that git signed."""

from pathlib import Path

import pygit2
import pytest

from hub.repo import signers, sync
from hub.repo.verification import VERIFIED, Mode, Verification
from proto.errors import Refused
from tests.signing import Repo, SshKey


class Fleet:
    """An upstream, a mirror of it, and people with keys."""

    def __init__(self, folder: Path) -> None:
        self.repo, self.mirror = Repo(folder / "upstream"), folder / "mirror"
        self.ada, self.bob, self.eve = (SshKey(folder, name) for name in ("ada", "bob", "eve"))

    def fetch(self, mode: Mode = "enforce", *pinned: SshKey, accept_rewrite: bool = False) -> sync.Revision:
        listed = signers.read("\n".join(key.signer() for key in pinned), what="pinned")
        trust = Verification(mode=mode, pinned=listed)
        return sync.fetch(self.mirror, str(self.repo.path), "main", trust=trust, accept_rewrite=accept_rewrite)

    def taken(self) -> str:
        return str(pygit2.Repository(str(self.mirror)).references["refs/heads/main"].target)

    def refused(self, commit: str, why: str, *pinned: SshKey) -> str:
        """The next fetches refuse `commit`; what was taken stays. Gives the message."""
        before = self.taken()
        for _ in range(2):
            with pytest.raises(Refused, match=f"commit {commit} by Ada .*{why}") as caught:
                self.fetch("enforce", *pinned)
            assert self.taken() == before
        return str(caught.value)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_off_looks_at_nothing(fleet: Fleet) -> None:
    commit = fleet.repo.commit()
    assert fleet.fetch("off").commit == commit
    assert VERIFIED not in pygit2.Repository(str(fleet.mirror)).references


def test_commits_of_pinned_signers_are_taken_and_others_are_refused_by_name(fleet: Fleet) -> None:
    good = fleet.repo.commit(fleet.ada)
    assert fleet.fetch("enforce", fleet.ada).commit == good
    bad = fleet.repo.commit(fleet.eve)
    told = fleet.refused(bad, "is signed by ED25519 key SHA256:.*no trusted signer", fleet.ada)
    assert f"what runs stays at {good}; take it off the branch" in told
    assert fleet.fetch("enforce", fleet.ada, fleet.eve).commit == bad


def test_an_unsigned_first_commit_is_not_taken(fleet: Fleet) -> None:
    fleet.repo.commit()
    with pytest.raises(Refused, match="is not signed"):
        fleet.fetch("enforce", fleet.ada)
    assert "refs/heads/main" not in pygit2.Repository(str(fleet.mirror)).references


def test_a_signed_commit_does_not_cover_an_unsigned_one_below_it(fleet: Fleet) -> None:
    good = fleet.repo.commit(fleet.ada)
    fleet.fetch("enforce", fleet.ada)
    bad = fleet.repo.commit()
    fleet.repo.commit(fleet.ada)
    fleet.refused(bad, "is not signed", fleet.ada)
    fleet.repo.git("reset", "-q", "--hard", good)
    fixed = fleet.repo.commit(fleet.ada)
    revision = fleet.fetch("enforce", fleet.ada)  # what was never taken may be taken back
    assert (revision.commit, revision.rewritten) == (fixed, False)


def test_a_merge_is_the_word_of_who_signed_it(fleet: Fleet) -> None:
    fleet.repo.commit(fleet.ada)
    fleet.fetch("enforce", fleet.ada)
    fleet.repo.git("checkout", "-q", "-b", "feature")
    fleet.repo.commit()
    fleet.repo.git("checkout", "-q", "main")
    fleet.repo.git("merge", "-q", "--no-ff", "-S", "-m", "merged", "feature", key=fleet.ada)
    assert fleet.fetch("enforce", fleet.ada).commit == fleet.repo.head()


def test_a_branch_that_went_on_beside_the_old_tip_is_looked_at_without_what_was_verified(fleet: Fleet) -> None:
    root = fleet.repo.commit()
    fleet.repo.git("checkout", "-q", "-b", "feature")
    fleet.repo.commit(fleet.ada)
    fleet.repo.git("checkout", "-q", "main")
    fleet.repo.commit(fleet.ada)
    fleet.fetch("enforce", fleet.ada)
    fleet.repo.git("checkout", "-q", "feature")
    fleet.repo.git("merge", "-q", "--no-ff", "-S", "-m", "merged", "main", key=fleet.ada)
    fleet.repo.git("branch", "-f", "main", "feature")
    assert fleet.fetch("enforce", fleet.ada).commit == fleet.repo.head() != root


def test_a_signer_that_is_no_longer_pinned_counts_no_more_at_once(fleet: Fleet) -> None:
    commit = fleet.repo.commit(fleet.ada)
    fleet.fetch("enforce", fleet.ada)
    fleet.refused(commit, "no trusted signer", fleet.bob)


def test_without_pinned_signers_enforce_takes_no_first_commit(fleet: Fleet) -> None:
    fleet.repo.commit(fleet.ada, signers=(fleet.ada.signer(),))
    with pytest.raises(Refused, match=r"neither the hub nor fleet\.yaml of the commit before names a signer"):
        fleet.fetch("enforce")


def test_the_first_commit_is_trusted_in_warn_and_its_signers_from_then_on(fleet: Fleet) -> None:
    first = fleet.repo.commit(signers=(fleet.ada.signer(),))
    assert fleet.fetch("warn").unverified == ""
    assert fleet.fetch("enforce").commit == first
    second = fleet.repo.commit(fleet.ada)
    assert fleet.fetch("enforce").commit == second
    fleet.refused(fleet.repo.commit(fleet.eve), "no trusted signer")


def test_a_commit_never_authorises_itself(fleet: Fleet) -> None:
    fleet.repo.commit(signers=(fleet.ada.signer(),))
    fleet.fetch("warn")
    taken_over = fleet.repo.commit(fleet.eve, signers=(fleet.eve.signer(),))
    fleet.refused(taken_over, "no trusted signer")
    fleet.repo.commit(fleet.eve)
    fleet.refused(taken_over, "no trusted signer")


def test_who_is_added_by_a_signer_counts_from_the_next_commit_in_the_same_fetch_too(fleet: Fleet) -> None:
    fleet.repo.commit(signers=(fleet.ada.signer(),))
    fleet.fetch("warn")
    fleet.repo.commit(fleet.ada, signers=(fleet.ada.signer(), fleet.bob.signer()))
    by_bob = fleet.repo.commit(fleet.bob, signers=(fleet.bob.signer(),))
    assert fleet.fetch("enforce").commit == by_bob
    fleet.refused(fleet.repo.commit(fleet.ada), "no trusted signer")


def test_a_fleet_file_that_cannot_be_read_changes_no_signer(fleet: Fleet) -> None:
    fleet.repo.commit(signers=(fleet.ada.signer(),))
    fleet.fetch("warn")
    (fleet.repo.path / "fleet.yaml").write_text("spec: {signers: [broken")
    fleet.repo.git("add", "fleet.yaml")
    assert fleet.repo.commit(fleet.ada) == fleet.fetch("enforce").commit
    fixed = fleet.repo.commit(fleet.ada, signers=(fleet.ada.signer(),))
    assert fleet.fetch("enforce").commit == fixed


def test_pinned_signers_win_over_those_of_the_fleet_file(fleet: Fleet) -> None:
    first = fleet.repo.commit(fleet.ada, signers=(fleet.bob.signer(),))
    assert fleet.fetch("enforce", fleet.ada).commit == first
    fleet.refused(fleet.repo.commit(fleet.bob), "no trusted signer", fleet.ada)


def test_warn_takes_the_commit_and_tells_as_long_as_it_lasts(fleet: Fleet) -> None:
    bad = fleet.repo.commit()
    for _ in range(2):
        revision = fleet.fetch("warn", fleet.ada)
        assert revision.commit == bad
        assert revision.unverified == f"fleet repo {fleet.repo.path}: commit {bad} by Ada is not signed"
    fleet.repo.commit(fleet.ada)
    assert fleet.fetch("warn", fleet.ada).unverified == ""


def test_warn_without_any_signer_says_so(fleet: Fleet) -> None:
    fleet.repo.commit(fleet.ada)
    assert "neither the hub nor fleet.yaml" in fleet.fetch("warn").unverified


def test_signers_of_a_commit_that_was_only_let_pass_are_not_trusted(fleet: Fleet) -> None:
    fleet.repo.commit(signers=(fleet.ada.signer(),))
    fleet.fetch("warn")
    let_pass = fleet.repo.commit(fleet.eve, signers=(fleet.eve.signer(),))
    assert let_pass in fleet.fetch("warn").unverified
    fleet.repo.commit(fleet.eve)
    assert let_pass in fleet.fetch("warn").unverified
    fleet.refused(let_pass, "no trusted signer")


def test_turning_enforcement_on_does_not_bless_what_was_taken_before(fleet: Fleet) -> None:
    unsigned = fleet.repo.commit()
    fleet.fetch("off")
    fleet.refused(unsigned, "is not signed", fleet.ada)


def test_an_accepted_rewrite_needs_a_signed_head(fleet: Fleet) -> None:
    fleet.repo.commit(fleet.ada)
    fleet.fetch("enforce", fleet.ada)
    fleet.repo.git("checkout", "-q", "--orphan", "new")
    fleet.repo.commit()
    fleet.repo.git("branch", "-f", "main", "new")
    with pytest.raises(Refused, match="is not signed"):
        fleet.fetch("enforce", fleet.ada, accept_rewrite=True)
    fleet.repo.commit(fleet.ada)
    fleet.repo.git("branch", "-f", "main", "new")
    with pytest.raises(Refused, match="was rewritten"):
        fleet.fetch("enforce", fleet.ada)
    assert fleet.fetch("enforce", fleet.ada, accept_rewrite=True).rewritten is True
    assert fleet.fetch("enforce", fleet.ada).commit == fleet.repo.head()

"""Trees of files from commits and folders: the same ids, and nothing hostile gets out of its folder."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pygit2
import pytest

from hub.repo import listing, sources
from proto.errors import InvalidInput, Permanent

FILE, EXECUTABLE, LINK, SUBMODULE, FOLDER = 0o100644, 0o100755, 0o120000, 0o160000, 0o040000
Row = tuple[int, bytes, bytes | str]


def git(*args: str, cwd: Path) -> str:
    who = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@x", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@x"}
    environment = {**os.environ, **who, "GIT_CONFIG_GLOBAL": os.devnull}
    return subprocess.run(
        ["git", *args], cwd=cwd, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "fleet"
    (root / "bundles/shop/a.b").mkdir(parents=True)
    (root / "bundles/shop/a").mkdir()
    (root / "clusters").mkdir()
    git("init", "-q", "-b", "main", cwd=root.parent / "fleet")
    (root / "bundles/shop/a/x.yaml").write_text("x: 1\n")
    (root / "bundles/shop/a.b/y.yaml").write_text("y: 1\n")
    (root / "bundles/shop/a-b").write_text("sorts between a and a/\n")
    (root / "bundles/shop/run.sh").write_text("#!/bin/sh\n")
    (root / "bundles/shop/run.sh").chmod(0o755)
    (root / "bundles/shop/größe.yaml").write_text("z: 1\n")
    (root / "bundles/shop/link.yaml").symlink_to("a/x.yaml")
    (root / "clusters/eu.yaml").write_text("kind: Cluster\n")
    (root / ".gitignore").write_text("*.log\n")
    return root


def commit(root: Path) -> str:
    git("add", "--all", "--force", cwd=root)
    git("commit", "-q", "-m", "all", cwd=root)
    return git("rev-parse", "HEAD", cwd=root)


def made(tmp_path: Path, rows: list[Row]) -> sources.CommitTree:
    """A commit with exactly these tree entries in `bundles/shop`, as a hostile client may push them."""
    repo = pygit2.init_repository(str(tmp_path / "made"), bare=True)

    def blob(data: bytes) -> bytes:
        return repo.create_blob(data).raw

    def tree(rows: list[tuple[int, bytes, bytes]]) -> bytes:
        body = b"".join(b"%o %s\0" % (mode, name) + oid for mode, name, oid in rows)
        return repo.odb.write(pygit2.enums.ObjectType.TREE, body).raw

    made_rows: list[tuple[int, bytes, bytes]] = []
    for mode, name, data in rows:
        if mode == SUBMODULE:
            made_rows.append((mode, name, b"\1" * 20))
        elif mode == FOLDER:
            made_rows.append((mode, name, tree([(FILE, b"inside.yaml", blob(bytes(str(data), "utf-8")))])))
        else:
            made_rows.append((mode, name, blob(data if isinstance(data, bytes) else data.encode())))
    shop = tree(made_rows)
    root = tree([(FOLDER, b"bundles", tree([(FOLDER, b"shop", shop)]))])
    body = b"tree %s\nauthor A <a@x> 0 +0000\ncommitter A <a@x> 0 +0000\n\nmade\n" % root.hex().encode()
    oid = repo.odb.write(pygit2.enums.ObjectType.COMMIT, body)
    return sources.CommitTree(repo, str(oid))


@pytest.fixture(params=["commit", "folder"])
def tree(request: pytest.FixtureRequest, checkout: Path) -> sources.Tree:
    oid = commit(checkout)
    return sources.CommitTree(checkout, oid) if request.param == "commit" else sources.FolderTree(checkout)


def test_folder_and_commit_have_the_tree_ids_that_git_gives(checkout: Path) -> None:
    oid = commit(checkout)
    for folder in ("", "bundles", "bundles/shop", "bundles/shop/a"):
        expected = git("rev-parse", f"{oid}:{folder}", cwd=checkout)
        assert sources.CommitTree(checkout, oid).tree_id(folder) == expected
        assert sources.FolderTree(checkout).tree_id(folder) == expected
    assert sources.FolderTree(checkout).tree_id("") == git("write-tree", cwd=checkout)


def test_folder_sees_what_is_not_committed_and_what_git_ignores(checkout: Path) -> None:
    before = sources.FolderTree(checkout).tree_id("bundles/shop")
    (checkout / "bundles/shop/new.log").write_text("new")
    after = sources.FolderTree(checkout).tree_id("bundles/shop")
    assert before != after
    commit(checkout)
    assert after == git("rev-parse", "HEAD:bundles/shop", cwd=checkout)


def test_empty_folders_do_not_count(checkout: Path) -> None:
    before = sources.FolderTree(checkout).tree_id("")
    (checkout / "bundles/empty/deeper").mkdir(parents=True)
    assert sources.FolderTree(checkout).tree_id("") == before


def test_files_are_given_in_order_without_git_and_only_where_wanted(tree: sources.Tree) -> None:
    found = dict(tree.files(wanted=lambda path: path.endswith(".yaml") and "link" not in path))
    assert list(found) == sorted(found)
    assert found["clusters/eu.yaml"] == b"kind: Cluster\n"
    assert set(found) == {
        "clusters/eu.yaml",
        "bundles/shop/a/x.yaml",
        "bundles/shop/a.b/y.yaml",
        "bundles/shop/größe.yaml",
    }
    assert dict(tree.files("clusters")) == {"clusters/eu.yaml": b"kind: Cluster\n"}


def test_a_wanted_file_that_is_a_link_is_an_error_not_a_gap(tree: sources.Tree) -> None:
    found = dict(tree.files())
    assert str(found["bundles/shop/link.yaml"]).startswith("bundles/shop/link.yaml: is a symbolic link")
    assert found["clusters/eu.yaml"] == b"kind: Cluster\n"


def test_what_cannot_be_looked_into_is_told_where_it_may_hide_what_is_wanted(checkout: Path) -> None:
    (checkout / "clusters/more").symlink_to("../bundles")
    (checkout / "clusters/large.yaml").write_bytes(b"#" * (listing.MAX_FILE_BYTES + 1))
    deep = checkout / "clusters" / "/".join(["d"] * (listing.MAX_DEPTH + 2))
    deep.mkdir(parents=True)
    (deep / "f.yaml").write_text("x")
    for tree in (sources.CommitTree(checkout, commit(checkout)), sources.FolderTree(checkout)):
        found = dict(tree.files(wanted=lambda path: path.startswith("clusters/") and path.endswith((".yaml", "/"))))
        too_deep = "/".join(["clusters", *["d"] * listing.MAX_DEPTH])
        assert set(found) == {"clusters/eu.yaml", "clusters/large.yaml", "clusters/more", too_deep}
        assert found["clusters/eu.yaml"] == b"kind: Cluster\n"
        assert "is a symbolic link" in str(found["clusters/more"])
        assert "the limit is" in str(found["clusters/large.yaml"])
        assert "folders deep" in str(found[too_deep])


def test_a_name_that_is_not_utf8_is_an_error_that_can_be_written_down(checkout: Path) -> None:
    Path(os.fsdecode(os.fsencode(checkout) + b"/clusters/a\xff.yaml")).write_text("x")
    for tree in (sources.CommitTree(checkout, commit(checkout)), sources.FolderTree(checkout)):
        found = dict(tree.files("clusters"))
        error = found["clusters/a\\xff.yaml"]
        assert isinstance(error, InvalidInput)
        assert str(error).encode()


def test_a_bundle_is_written_with_its_links_and_modes(tree: sources.Tree, tmp_path: Path) -> None:
    target = tmp_path / "out"
    tree.materialise("bundles/shop", target)
    assert (target / "a/x.yaml").read_text() == "x: 1\n"
    assert os.access(target / "run.sh", os.X_OK)
    assert not os.access(target / "a-b", os.X_OK)
    assert (target / "link.yaml").readlink() == Path("a/x.yaml")
    assert sources.FolderTree(target).tree_id("") == tree.tree_id("bundles/shop")


@pytest.mark.parametrize(
    "folder", ["bundles/none", "clusters/eu.yaml", "/etc", "bundles/../..", "bundles/shop/a/x.yaml/b"]
)
def test_a_folder_that_is_not_there_is_named(tree: sources.Tree, folder: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=folder.replace(".", r"\.")):
        tree.tree_id(folder)
    with pytest.raises(InvalidInput):
        tree.materialise(folder, tmp_path / "out")


def test_a_commit_that_is_not_in_the_mirror_is_named(checkout: Path) -> None:
    commit(checkout)
    with pytest.raises(Permanent, match="commit 1111"):
        sources.CommitTree(checkout, "1" * 40)
    with pytest.raises(Permanent, match="cannot be read"):
        sources.CommitTree(checkout, "main; rm")


HOSTILE = [
    pytest.param([(LINK, b"l", "/etc/passwd")], "links to /etc/passwd", id="an absolute link"),
    pytest.param([(LINK, b"l", "../other/secret.yaml")], r"links to \.\./other", id="a link that leaves"),
    pytest.param([(LINK, b"l", "d/../../x"), (FOLDER, b"d", "")], "links to d/../../x", id="a link over a folder"),
    pytest.param([(FILE, b"a", ""), (LINK, b"l", "none")], "links to none", id="a dangling link"),
    pytest.param([(FOLDER, b"d", ""), (LINK, b"l", "d")], "links to d,", id="a link to a folder"),
    pytest.param([(LINK, b"l", ".")], "links to .,", id="a link to its own folder"),
    pytest.param([(LINK, b"k", "l"), (LINK, b"l", "k")], "links to l,", id="links in a circle"),
    pytest.param([(LINK, b"l", b"a\0b"), (FILE, b"a", "")], "links to a", id="a link with a NUL"),
    pytest.param([(SUBMODULE, b"lib", "")], "bundles/shop/lib: is a Git submodule", id="a submodule"),
    pytest.param([(FILE, b"..", "x")], "is not a valid name", id="a file named .."),
    pytest.param([(FOLDER, b"..", "x")], "is not a valid name", id="a folder named .."),
    pytest.param([(FILE, b"../../evil", "x")], "is not a valid name", id="a name with slashes"),
    pytest.param([(FILE, b"/evil", "x")], "is not a valid name", id="an absolute name"),
    pytest.param([(FOLDER, b".git", "x")], "Git repository inside", id="a .git folder"),
    pytest.param([(FOLDER, b".GIT", "x")], "Git repository inside", id="a .GIT folder"),
    pytest.param([(FILE, b"a\xff.yaml", "x")], r"a\\xff\.yaml: is not a valid name", id="a name that is not UTF-8"),
    pytest.param([(FILE, b"a\nb", "x")], r"a\\x0ab: is not a valid name", id="a name with a newline"),
    pytest.param([(FILE, b"a", "x"), (FILE, b"a", "y")], "is there twice", id="one name twice"),
    pytest.param([(LINK, b"a", "b"), (FOLDER, b"a", "x"), (FILE, b"b", "")], "is there twice", id="link and folder"),
    pytest.param([(FILE, b"big", b"0" * (listing.MAX_FILE_BYTES + 1))], "the limit is 4194304", id="a large file"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "message"), HOSTILE)
def test_hostile_commits_are_refused_before_anything_is_written(rows: list[Row], message: str, tmp_path: Path) -> None:
    tree = made(tmp_path, rows)
    target = tmp_path / "out/bundle"
    with pytest.raises(InvalidInput, match=message) as caught:
        tree.materialise("bundles/shop", target)
    assert caught.value.thing.startswith("bundles/shop")
    assert caught.value.remedy
    assert not target.parent.exists()


def test_a_link_through_another_link_to_a_file_is_kept(tmp_path: Path) -> None:
    tree = made(tmp_path, [(LINK, b"k", "l"), (LINK, b"l", "d/inside.yaml"), (FOLDER, b"d", "hello")])
    tree.materialise("bundles/shop", tmp_path / "out")
    assert (tmp_path / "out/k").read_text() == "hello"


def test_a_tree_that_holds_one_tree_many_times_is_refused_in_bounded_time(tmp_path: Path) -> None:
    repo = pygit2.init_repository(str(tmp_path / "bomb"), bare=True)
    oid = repo.create_blob(b"x").raw
    body = b"".join(b"100644 f%d\0" % i + oid for i in range(10))
    for _ in range(12):
        level = repo.odb.write(pygit2.enums.ObjectType.TREE, body).raw
        body = b"".join(b"40000 d%d\0" % i + level for i in range(10))
    top = repo.odb.write(pygit2.enums.ObjectType.TREE, body)
    text = b"tree %s\nauthor A <a@x> 0 +0000\ncommitter A <a@x> 0 +0000\n\nbomb\n" % str(top).encode()
    tree = sources.CommitTree(repo, str(repo.odb.write(pygit2.enums.ObjectType.COMMIT, text)))
    with pytest.raises(InvalidInput, match="d0: has more than 20000 files"):
        tree.materialise("d0", tmp_path / "out")


def test_a_tree_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / "deep" / "/".join(["d"] * (listing.MAX_DEPTH + 2))
    deep.mkdir(parents=True)
    (deep / "f").write_text("x")
    with pytest.raises(InvalidInput, match="folders deep"):
        sources.FolderTree(tmp_path / "deep").tree_id("")


def inner_repository(root: Path) -> None:
    (root / "bundles/shop/lib/.git").mkdir(parents=True)
    (root / "bundles/shop/lib/.git/config").write_text("[core]")


def pipe(root: Path) -> None:
    os.mkfifo(root / "bundles/shop/pipe")


def bytes_name(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root) + b"/bundles/shop/a\xff.yaml")).write_text("x")


def leaving_link(root: Path) -> None:
    (root / "bundles/shop/l").symlink_to("../../clusters/eu.yaml")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(inner_repository, "a Git submodule, or a repository of its own", id="an inner repository"),
        pytest.param(pipe, "neither a file nor a folder", id="a pipe"),
        pytest.param(bytes_name, r"a\\xff.yaml: is not a valid name", id="a name that is not UTF-8"),
        pytest.param(leaving_link, "is not a file of the bundle", id="a link that leaves the bundle"),
    ],
)
def test_hostile_folders_are_refused(
    spoil: Callable[[Path], None], message: str, checkout: Path, tmp_path: Path
) -> None:
    spoil(checkout)
    with pytest.raises(InvalidInput, match=message):
        sources.FolderTree(checkout).materialise("bundles/shop", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_behind_a_link_is_refused(checkout: Path, tmp_path: Path) -> None:
    (checkout / "bundles/other").symlink_to(tmp_path)
    with pytest.raises(InvalidInput, match="goes through a symbolic link"):
        sources.FolderTree(checkout).materialise("bundles/other", tmp_path / "out")


def test_a_mirror_that_lost_an_object_is_named(checkout: Path, tmp_path: Path) -> None:
    oid = commit(checkout)
    blob = git("rev-parse", f"{oid}:clusters/eu.yaml", cwd=checkout)
    (checkout / f".git/objects/{blob[:2]}/{blob[2:]}").unlink()
    tree = sources.CommitTree(checkout, oid)
    with pytest.raises(Permanent, match=f"lacks the Git object {blob}"):
        list(tree.files())
    with pytest.raises(Permanent, match="remove the mirror"):
        tree.materialise("clusters", tmp_path / "out")


def written(tmp_path: Path, ignore: bytes, rows: list[Row]) -> set[str]:
    """What is written of a bundle with these entries and this `.flotillaignore`."""
    made(tmp_path, [*rows, (FILE, b".flotillaignore", ignore)]).materialise("bundles/shop", tmp_path / "out")
    found = (path for path in (tmp_path / "out").rglob("*") if not path.is_dir())
    return {str(path.relative_to(tmp_path / "out")) for path in found}


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        pytest.param(b"", {"a.yaml", "b.md", "d/inside.yaml"}, id="nothing"),
        pytest.param(b"*.md\n# a.yaml\n\n", {"a.yaml", "d/inside.yaml"}, id="a kind of file, a comment"),
        pytest.param(b"d/\n", {"a.yaml", "b.md"}, id="a folder"),
        pytest.param(b"inside.yaml", {"a.yaml", "b.md"}, id="a name in any folder"),
        pytest.param(b"/inside.yaml", {"a.yaml", "b.md", "d/inside.yaml"}, id="a name in this folder"),
        pytest.param(b"**/*.yaml\n!a.yaml", {"a.yaml", "b.md"}, id="an exception"),
        pytest.param(b"\xef\xbb\xbf*.md\r\nd\r\n", {"a.yaml"}, id="as Windows saves it"),
    ],
)
def test_what_flotillaignore_names_is_left_out(tmp_path: Path, ignore: bytes, left: set[str]) -> None:
    assert written(tmp_path, ignore, [(FILE, b"a.yaml", "x"), (FILE, b"b.md", "x"), (FOLDER, b"d", "x")]) == left


def test_what_is_ignored_is_not_looked_at(tmp_path: Path) -> None:
    large = b"0" * (listing.MAX_FILE_BYTES + 1)
    rows: list[Row] = [
        (FILE, b"a.yaml", "x"),
        (LINK, b"l", "/etc/passwd"),
        (SUBMODULE, b"lib", ""),
        (FILE, b"big", large),
    ]
    assert written(tmp_path, b"l\nlib\nbig\n", rows) == {"a.yaml"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        pytest.param((LINK, b".flotillaignore", "a.yaml"), "ignore: is not a file", id="a link"),
        pytest.param((FOLDER, b".flotillaignore", "x"), "", id="a folder"),
        pytest.param((FILE, b".flotillaignore", b"a\xff"), "ignore: is not UTF-8", id="no text"),
        pytest.param((FILE, b".flotillaignore", b"a\n!\n"), "ignore:2: is not a pattern", id="no pattern"),
        pytest.param((FILE, b".flotillaignore", b"x\n" + b"*a" * 9), "ignore:2: has more than 3 '*'", id="many stars"),
        pytest.param((FILE, b".flotillaignore", b"**/a/" * 4), "ignore:1: has more than 3", id="many folders"),
        pytest.param((FILE, b".flotillaignore", b"a\n" * 40_000), "ignore: has 80000 bytes", id="too large"),
    ],
)
def test_a_flotillaignore_that_cannot_be_read_is_an_error(tmp_path: Path, row: Row, message: str) -> None:
    tree = made(tmp_path, [row, (FILE, b"a.yaml", "x")])
    if not message:  # as Git has it: only a file says what is ignored
        tree.materialise("bundles/shop", tmp_path / "out")
        return
    with pytest.raises(InvalidInput, match=message) as raised:
        tree.materialise("bundles/shop", tmp_path / "out")
    assert raised.value.thing.startswith("bundles/shop/.flotillaignore")

"""Archives into Git trees: what is kept, and what a hostile one is refused for."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pygit2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub.external import archive
from hub.repo import listing
from proto.errors import InvalidInput


@pytest.fixture
def repo(tmp_path: Path) -> pygit2.Repository:
    return pygit2.init_repository(str(tmp_path / "git"), bare=True)


Pack = Callable[..., Path]


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """A tar.gz of members: a name with text, or a TarInfo with bytes."""

    def made(*members: Any, zipped: bool = True, form: int = tarfile.PAX_FORMAT) -> Path:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for one, content in members:
                data = content.encode() if isinstance(content, str) else content
                info = one if isinstance(one, tarfile.TarInfo) else tarfile.TarInfo(one)
                if info.isreg():
                    info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        path = tmp_path / "archive"
        path.write_bytes(gzip.compress(buffer.getvalue()) if zipped else buffer.getvalue())
        return path

    return made


def member(name: str, kind: bytes = tarfile.REGTYPE, **changes: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in changes.items():
        setattr(info, key, value)
    return info


def listed(repo: pygit2.Repository, tree: str) -> dict[str, tuple[int, bytes]]:
    def below(found: Any, at: str) -> Any:
        for entry in found:
            if isinstance(entry, pygit2.Tree):
                yield from below(entry, f"{at}{entry.name}/")
            else:
                yield f"{at}{entry.name}", (int(entry.filemode), entry.data)

    return dict(below(repo[tree], ""))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_files_links_and_executables_become_a_tree(
    pack: Pack, repo: pygit2.Repository, zipped: bool, form: int
) -> None:
    deep = "/".join(["a-folder-with-a-long-name"] * 5)
    path = pack(
        (member("web", tarfile.DIRTYPE), ""),
        ("./web/Chart.yaml", "name: web\n"),
        (member("web/run.sh", mode=0o755), "#!/bin/sh\n"),
        (member("web/same.yaml", tarfile.SYMTYPE, linkname="Chart.yaml"), ""),
        (f"web/{deep}/file.yaml", "a: 1\n"),
        zipped=zipped,
        form=form,
    )
    assert listed(repo, archive.unpack(path, repo, what="chart web", strip=1)) == {
        "Chart.yaml": (0o100644, b"name: web\n"),
        "run.sh": (0o100755, b"#!/bin/sh\n"),
        "same.yaml": (0o120000, b"Chart.yaml"),
        f"{deep}/file.yaml": (0o100644, b"a: 1\n"),
    }
    assert set(listed(repo, archive.unpack(path, repo, what="chart web"))) >= {"web/Chart.yaml", "web/run.sh"}


def test_owner_time_and_order_make_no_difference(pack: Pack, repo: pygit2.Repository) -> None:
    first = archive.unpack(pack(("a", "1"), ("b", "2")), repo, what="x")
    info = member("b", mtime=1700000000, uid=7, gname="staff", uname="somebody", mode=0o600)
    assert archive.unpack(pack((info, "2"), ("a", "1"), zipped=False), repo, what="x") == first


def test_a_name_that_is_not_ascii_is_kept(pack: Pack, repo: pygit2.Repository) -> None:
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert list(listed(repo, archive.unpack(pack(("größe/日本.yaml", "x"), form=form), repo, what="x"))) == [
            "größe/日本.yaml"
        ]


def test_an_archive_of_git_has_a_comment_that_is_passed_over(tmp_path: Path, repo: pygit2.Repository) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "c0ffee"}) as tar:
        tar.addfile(member("a", size=1), io.BytesIO(b"1"))
    (tmp_path / "archive").write_bytes(buffer.getvalue())
    assert list(listed(repo, archive.unpack(tmp_path / "archive", repo, what="x"))) == ["a"]


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        pytest.param([("/etc/passwd", "x")], "leads out of the archive", id="an absolute name"),
        pytest.param([("a/../../b", "x")], "leads out of the archive", id="a name that leaves"),
        pytest.param([("a/.git/config", "x")], "is not a name", id="Git's own files"),
        pytest.param([("a/.GIT/config", "x")], "is not a name", id="the same in capitals"),
        pytest.param([("a\\b", "x")], "is not a name", id="a backslash"),
        pytest.param([("a\nb", "x")], "is not a name", id="a line break"),
        pytest.param([("a\udcff", "x")], "is not a name", id="a name that is not UTF-8"),
        pytest.param([("a", "1"), ("./a", "2")], "is there twice", id="a name twice"),
        pytest.param([("a", "1"), ("a/b", "2")], "is there twice", id="a file, then a folder"),
        pytest.param([("a/b", "1"), ("a", "2")], "is there twice", id="a folder, then a file"),
        pytest.param([(member("a", tarfile.LNKTYPE, linkname="b"), "")], "is neither a file nor", id="a hard link"),
        pytest.param([(member("a", tarfile.CHRTYPE), "")], "is neither a file nor", id="a device"),
        pytest.param([(member("a", tarfile.FIFOTYPE), "")], "is neither a file nor", id="a pipe"),
        pytest.param([(member("a", tarfile.GNUTYPE_SPARSE), "")], "is neither a file nor", id="an old sparse file"),
        pytest.param(
            [(member("a", pax_headers={"GNU.sparse.major": "1"}), "x")], "holds a sparse file", id="a sparse file"
        ),
        pytest.param(
            [(member("a", tarfile.SYMTYPE, linkname="/etc/passwd"), "")], "out of the archive", id="an absolute link"
        ),
        pytest.param([(member("a/b", tarfile.SYMTYPE, linkname="../../c"), "")], "out of the archive", id="a link out"),
        pytest.param([(member("a", tarfile.SYMTYPE, linkname=""), "")], "out of the archive", id="a link to nothing"),
        pytest.param([("/".join("d" * 70), "x")], "folders deep", id="too deep"),
        pytest.param([("a", b"x" * (listing.MAX_FILE_BYTES + 1))], "the limit is", id="a large file"),
        pytest.param([(member("a", pax_headers={"size": "-1"}), "x")], "a size that is none", id="a negative size"),
        pytest.param([(member("a", pax_headers={"size": "9" * 18}), "x")], "the limit is", id="a size beyond all"),
        pytest.param([(member("a", pax_headers={"path": "x" * 70_000}), "x")], "has no end", id="an endless name"),
        pytest.param([], "holds no file", id="nothing"),
        pytest.param([(member("a", tarfile.DIRTYPE), "")], "holds no file", id="a folder only"),
    ],
)
def test_what_no_bundle_may_hold_is_refused(
    pack: Pack, repo: pygit2.Repository, members: list[Any], cause: str
) -> None:
    with pytest.raises(InvalidInput, match=cause) as refused:
        archive.unpack(pack(*members), repo, what="chart web")
    assert refused.value.thing.startswith("chart web")
    assert str(refused.value).isprintable()


def test_a_file_beside_the_charts_folder_is_refused(pack: Pack, repo: pygit2.Repository) -> None:
    with pytest.raises(InvalidInput, match="is not inside the archive's one folder"):
        archive.unpack(pack(("web/Chart.yaml", "x"), ("other", "x")), repo, what="x", strip=1)


def test_more_files_than_a_bundle_may_have_are_refused(
    pack: Pack, repo: pygit2.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_FILES", 3)
    assert archive.unpack(pack(*((f"f{n}", "x") for n in range(3))), repo, what="x")
    with pytest.raises(InvalidInput, match="more than 3 files"):
        archive.unpack(pack(*((f"f{n}", "x") for n in range(4))), repo, what="x")
    monkeypatch.setattr(archive, "_MAX_HEADERS", 50)
    with pytest.raises(InvalidInput, match="more than 50 headers"):
        archive.unpack(pack(*((member(f"d{n}", tarfile.DIRTYPE), "") for n in range(60))), repo, what="x")


def test_a_gzip_bomb_is_stopped_when_it_has_what_a_bundle_may_have(
    pack: Pack, repo: pygit2.Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_BUNDLE_BYTES", 10 << 20)
    path = pack(*((f"f{n}", bytes(4 << 20)) for n in range(8)))
    assert path.stat().st_size < 100_000
    with pytest.raises(InvalidInput, match="more than 10485760 bytes, the limit"):
        archive.unpack(path, repo, what="x")


def damaged(data: bytes, how: str) -> bytes:
    plain = gzip.decompress(data)
    return {
        "cut in the middle": data[: len(data) // 2],
        "without gzip's sum": data[:-8],
        "a wrong sum": data[:-8] + bytes(8),
        "something after it": data + b"more",
        "cut, then zipped": gzip.compress(plain[:700]),
        "without an end": gzip.compress(plain[:1024]),
        "a wrong checksum": gzip.compress(b"X" + plain[1:]),
        "a second archive": gzip.compress(plain + plain),
        "zstd": b"\x28\xb5\x2f\xfd" + data,
        "no archive": b"<html>" * 200,
        "empty": b"",
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "cut in the middle",
        "without gzip's sum",
        "a wrong sum",
        "something after it",
        "cut, then zipped",
        "without an end",
        "a wrong checksum",
        "a second archive",
        "no archive",
        "empty",
    ],
)
def test_an_archive_that_is_not_whole_is_refused(pack: Pack, repo: pygit2.Repository, how: str) -> None:
    path = pack(("a", "x"))
    path.write_bytes(damaged(path.read_bytes(), how))
    with pytest.raises(InvalidInput, match="is not a whole archive"):
        archive.unpack(path, repo, what="x")


def test_zstd_is_refused_with_what_to_do(pack: Pack, repo: pygit2.Repository) -> None:
    path = pack(("a", "x"))
    path.write_bytes(damaged(path.read_bytes(), "zstd"))
    with pytest.raises(InvalidInput, match="publish it with gzip"):
        archive.unpack(path, repo, what="x")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_archive_gives_a_refusal_and_never_another_error(
    pack: Pack, repo: pygit2.Repository, data: st.DataObject
) -> None:
    path = pack(("a/b", "x" * 600), (member("l", tarfile.SYMTYPE, linkname="a/b"), ""), ("ö" * 120, "y"), zipped=False)
    whole = bytearray(path.read_bytes())
    before = archive.unpack(path, repo, what="x")
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    try:
        after = archive.unpack(path, repo, what="x")
    except InvalidInput:
        return
    assert len(listed(repo, after)) == len(listed(repo, before))  # what was changed is in a file, or says nothing

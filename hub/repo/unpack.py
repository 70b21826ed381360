"""A bundle's folder is written out for its render, after all of it was found harmless.

| in the folder                                        | what happens                                    |
|------------------------------------------------------|-------------------------------------------------|
| file, executable file                                | written                                         |
| link to a file in the folder                         | written as a link, after all files              |
| any other link (absolute, leaving, dangling, folder) | refused: InvalidInput                           |
| submodule, `.git`, `..`, a name that is not UTF-8    | refused: InvalidInput                           |
| more or larger files than the limits of `listing`    | refused: InvalidInput, before a file is read    |
| what `.flotillaignore` names, whatever it is         | left out, never looked at                       |

All of it may be somebody hostile's: nothing is written before the whole folder was checked, and nothing outside the
destination. `.flotillaignore` stands in the bundle's folder and has the syntax of `.gitignore`. Next: `sources` calls
this with what it listed.
"""

import os
import posixpath
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pathspec

from hub.repo import listing
from hub.repo.listing import File
from proto.errors import InvalidInput

IGNORE_FILE = ".flotillaignore"
_MAX_IGNORE_BYTES = 64 << 10
_MAX_STARS = 3
"""Runs of `*` in one name, and folders `**` in one pattern: each more takes a hundred times as long to look for."""
_MAX_LINKS = 8
"""Links that lead to links, before we call it a loop."""


def write(listed: Sequence[File], folder: str, destination: Path) -> None:
    """Write the files of `folder` below `destination`, which is made. Raises InvalidInput by the module's table."""
    listed = _without_ignored(listed, folder)
    targets = _check(listed, folder)
    destination.mkdir(parents=True, exist_ok=True)
    for file in sorted(listed, key=lambda file: file.mode == listing.LINK):
        place = destination / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        if file.mode == listing.LINK:
            place.symlink_to(targets[file.path])
        else:
            # O_EXCL: a name that appears twice (a hostile tree, a file system that folds case) never overwrites.
            mode = 0o755 if file.mode & stat.S_IXUSR else 0o644
            with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as opened:
                opened.write(file.read())


def _without_ignored(listed: Sequence[File], folder: str) -> Sequence[File]:
    """Those that `.flotillaignore` leaves. Raises InvalidInput when it cannot be read: it may leave out anything."""
    says = next((file for file in listed if file.path == IGNORE_FILE), None)
    if says is None:
        return listed
    where = listing.shown(listing.below(folder, IGNORE_FILE))
    if not stat.S_ISREG(says.mode):
        raise InvalidInput(where, "is not a file", "write the patterns into it")
    if (size := says.size()) > _MAX_IGNORE_BYTES:
        raise InvalidInput(where, f"has {size} bytes, the limit is {_MAX_IGNORE_BYTES}", "ignore whole folders")
    try:
        lines = says.read().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInput(where, "is not UTF-8", "save it as UTF-8") from error
    for number, line in enumerate(lines, start=1):
        _check_pattern(line, f"{where}:{number}")
    ignored = pathspec.GitIgnoreSpec.from_lines(lines)
    return [file for file in listed if file is not says and not ignored.match_file(file.path)]


def _check_pattern(line: str, where: str) -> None:
    try:
        pathspec.GitIgnoreSpec.from_lines([line])
    except ValueError as error:
        raise InvalidInput(where, "is not a pattern of .gitignore's syntax", "correct it") from error
    names = [] if line.startswith("#") else line.split("/")
    if names.count("**") > _MAX_STARS or any(len(re.findall(r"\*+", name)) > _MAX_STARS for name in names):
        cause = f"has more than {_MAX_STARS} '*' in one name, or '**' in one pattern"
        raise InvalidInput(where, cause, "write more patterns that have fewer")


def _check(listed: Sequence[File], folder: str) -> dict[str, str]:
    """The target of each link, after every file was found harmless. Raises InvalidInput."""
    seen: dict[str, File] = {}
    total = 0
    for file in listed:
        path = listing.below(folder, file.path)
        if not file.is_file or not listing.is_safe(file.path):
            raise listing.refusal(file, path)
        if (size := file.size()) > listing.MAX_FILE_BYTES:
            raise listing.too_large(path, size)
        if file.path in seen or any(parent in seen for parent in _parents(file.path)):
            raise InvalidInput(listing.shown(path), "is there twice", "write the commit with git")
        seen[file.path] = file
        total += size
    if total > listing.MAX_BUNDLE_BYTES:
        cause = f"has {total} bytes, the limit is {listing.MAX_BUNDLE_BYTES}"
        raise InvalidInput(listing.shown(folder), cause, "split the bundle")
    links = {path: os.fsdecode(file.read()) for path, file in seen.items() if file.mode == listing.LINK}
    for path in links:
        _check_link(path, links, seen, folder)
    return links


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _check_link(path: str, links: dict[str, str], seen: dict[str, File], folder: str) -> None:
    """A link has to end at a file of the folder. Links to folders are refused, so no path leads through a link, and
    taking `..` off the text of the target is exact."""
    at, target = path, links[path]
    for _ in range(_MAX_LINKS):
        if target.startswith("/") or "\0" in target:
            break
        at = posixpath.normpath(posixpath.join(posixpath.dirname(at), target))
        if at not in seen:
            break
        if at not in links:
            return
        target = links[at]
    raise InvalidInput(
        listing.shown(listing.below(folder, path)),
        f"links to {listing.shown(links[path])}, which is not a file of the bundle",
        "replace the link by a copy of the file, or put the file into the bundle's folder",
    )

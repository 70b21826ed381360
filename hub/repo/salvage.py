"""The documents of a YAML file, and what is left of those that are broken.

A syntax error in one document must not take the others of its file with it: the document around the error is blanked
out, line by line so that all others keep their lines, and the file is read again. Next: `fleet`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hub.repo.yaml_reader import Document, documents
from proto.errors import InvalidInput

MAX_BROKEN = 10
"""Of one file: each costs another reading of it. With more, all that is left of the file counts as broken."""

_SEPARATOR = re.compile(rb"---(\s|$)")
_BARE_SEPARATOR = re.compile(rb"---\s*(#.*)?$")
_NAME = re.compile(
    r"\bmetadata\b.{0,1000}?\bname[\"']?:\s*[\"']?([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)(?![-\w.])", re.DOTALL
)
_KIND = re.compile(r"^\s*[\"']?kind[\"']?:\s*[\"']?(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """What cannot be read, because of `error`. `things` are the (kind, name) that it seems to have been, as far as they
    show: one of a broken document, several where a whole file is lost."""

    error: InvalidInput
    things: tuple[tuple[str, str], ...]


def read(text: bytes, *, where: str) -> tuple[tuple[Document, ...], tuple[Broken, ...]]:
    """Pure: the documents that can be read, and a `Broken` for each that cannot."""
    broken: list[Broken] = []
    while True:
        try:
            return documents(text, where=where), tuple(broken)
        except InvalidInput as error:
            lines = text.split(b"\n")
            line = _line_of(error)
            start, end = _document_around(lines, line - 1) if line else (0, len(lines))
            blank = [b"---" if _SEPARATOR.match(lines[start]) else b"", *[b""] * (end - start - 1)]
            if not line or len(broken) == MAX_BROKEN or lines[start:end] == blank:
                return (), (*broken, Broken(error=error, things=tuple(_things(lines))))
            broken.append(Broken(error=error, things=tuple(_things(lines[start:end]))))
            text = b"\n".join([*lines[:start], *blank, *lines[end:]])


def _line_of(error: InvalidInput) -> int:
    """0 when the error is about the whole file."""
    line = error.thing.rpartition(":")[2]
    return int(line) if line.isdecimal() else 0


def _document_around(lines: Sequence[bytes], index: int) -> tuple[int, int]:
    """First line and end of the document with line `index`. What is left open is noticed at the next separator only."""
    index = min(index, len(lines) - 1)
    if _BARE_SEPARATOR.match(lines[index]):
        index = max(index - 1, 0)
    start = next((at for at in range(index, 0, -1) if _SEPARATOR.match(lines[at])), 0)
    end = next((at for at in range(start + 1, len(lines)) if _SEPARATOR.match(lines[at])), len(lines))
    return start, end


def _things(lines: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    starts = [0, *(at for at in range(1, len(lines)) if _SEPARATOR.match(lines[at]))]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        text = b"\n".join(lines[start:end]).decode(errors="replace")
        kind, name = _KIND.search(text), _NAME.search(text)
        if kind or name:
            yield kind[1] if kind else "", name[1] if name else ""

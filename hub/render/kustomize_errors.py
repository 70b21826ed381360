"""What Kustomize's errors tell: the file that one is about, the line where it is known, and never what the file holds.

| in an error                                             | becomes                                                  |
|---------------------------------------------------------|----------------------------------------------------------|
| a folder or file of the bundle, in the order of bases   | the last that is there is what the error is about        |
| a file that is not there                                | stays: about the kustomization that names it             |
| `yaml: line 3`, an unknown field, a field's wrong type  | the line                                                 |
| values: patches in place, literals, dumps of objects    | left out, for they may be a Secret's                     |
| addresses in memory, Go's stacks                        | left out, for they differ each time                      |
| one of Go's words for the end of its memory             | that the limit was reached                               |

Next: `kustomize` raises it.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from hub.render import plain
from hub.repo import yaml_reader
from proto.errors import FlotillaError

_MAX_CHARACTERS = 2000

_MENTION = re.compile(r"(?<![A-Za-z])'([^'\s]+)'|path\(([^)\n]+)\)|path: \"?([^\"\n\]]+)\"?|File: (\S+)")
_LINE = re.compile(r"yaml: line (\d+)")
_FIELD = re.compile(r'unknown field "([^"\n]+)"|Go struct field Kustomization\.(\w+)')
_VALUES = (
    (re.compile(r"^# Warning: .*\n", re.MULTILINE), ""),
    (re.compile(r"map\[string\]interface \{\}\{(?:.*\}: |.*$)", re.DOTALL), "an object: "),
    (re.compile(r" with config: `\n(?:.*?\n`|.*)", re.DOTALL), ""),
    (re.compile(r"\[patch: .*", re.DOTALL), "a patch in place"),
    (re.compile(r"literal sources \[.*", re.DOTALL), "a literal is not key=value"),
    (re.compile(r"line \[[\d ]*\] has invalid utf8 bytes : .*", re.DOTALL), "a line is not UTF-8"),
    (re.compile(r": node contents:.*", re.DOTALL), ""),
    (re.compile(r"(out of bounds) for value .*", re.DOTALL), r"\1"),
    (re.compile(r"evalsymlink failure on '[^']*[\n{].*", re.DOTALL), "a patch in place is neither a patch nor a file"),
    (re.compile(r"(can't be set at the same time)\n.*", re.DOTALL), r"\1"),
    (re.compile(r"(unknown anchor) '[^']*'"), r"\1"),
    (re.compile(r"\n+(?:runtime stack|goroutine \d).*", re.DOTALL), ""),
    (
        re.compile(r"^.*fatal error: [^\n]*(?:out of memory|cannot allocate memory).*$", re.DOTALL),
        "it takes more memory than a render may have",
    ),
    (re.compile(r" ?&\{0x[0-9a-f]+[^}]*\}"), ""),
)


def told(text: str, *, folder: Path, root: Path, at: str) -> tuple[str, str]:
    """Where the error is, in the bundle's folder `root` that messages call `at`, and its words without any value.
    `folder` is what was built."""
    here, about = folder, plain.kustomization_of(folder) or folder
    for found in _MENTION.finditer(text):
        target = Path(os.path.normpath(here / next(group for group in found.groups() if group)))
        if target.is_relative_to(root) and os.path.isdir(target):
            here, about = target, plain.kustomization_of(target) or target
        elif target.is_relative_to(root) and os.path.isfile(target):
            about = target
    where = f"{at}/{about.relative_to(root)}" if about != root else at
    line = _line(text, about)
    for pattern, instead in _VALUES:
        text = pattern.sub(instead, text)
    return f"{where}:{line}" if line else where, text.replace(str(root), at).strip()[:_MAX_CHARACTERS]


def _line(text: str, about: Path) -> int:
    """0 when the error tells none."""
    if line := _LINE.search(text):
        return int(line[1])
    field = _FIELD.search(text)
    if field is None or about.name not in plain.KUSTOMIZATION_FILES:
        return 0
    try:
        (document, *_) = yaml_reader.documents(about.read_bytes(), where="", strict=False)
    except (FlotillaError, ValueError):
        return 0
    name = field[1] or field[2]
    return document.lines.at(name) if isinstance(document.value, Mapping) and name in document.value else 0

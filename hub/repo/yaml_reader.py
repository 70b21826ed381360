"""YAML (and JSON) bytes to JSON values, exactly as kubectl reads them, in bounded time and memory.

kubectl reads YAML with sigs.k8s.io/yaml: go-yaml v2 resolves the scalars, and the result is made JSON. So `y` and `on`
are true, `0777` and `0o777` are 511, `08` is 8, `1e3` is 1000, dates and `12:30:45` stay strings, and keys become
strings. PyYAML's scanner and parser (libyaml, which go-yaml is a port of) give the events; what they mean is decided
here.

    kubectl lets pass                            here
    a key set twice (last wins), a merge after   refused, as in kubectl's strict mode, unless `strict` is off; a key
    a key that it has too (the merge wins)       after the merge replaces its own, as everywhere
    keys that become one, as 1 and "1" (either)  the same
    what follows `...` (ignored without a word)  read as the next document
    10,000 levels, any number of nodes           MAX_DEPTH, MAX_NODES, MAX_BYTES
Documents without content are left out, as kubectl does. Next: `fleet` for the fleet's files, `render` for manifests.
"""

import base64
import binascii
import codecs
import math
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import yaml

from hub.repo import json_values, yaml_scalars
from proto.errors import InvalidInput

MAX_BYTES = 16 << 20
"""Of one file: the largest bundles of CRDs in common use have 4 MB."""
MAX_NODES = 1_000_000
"""Of one file, with aliases expanded: about two seconds, and 16 MB of dense objects."""
MAX_DEPTH = 200
"""Of one document: the writer of canonical JSON stops at 254, CRD schemas rarely reach 50."""
_LFS = b"version https://git-lfs.github.com/spec/"

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_TAG = "tag:yaml.org,2002:"
_RESOLVED_TAGS = frozenset({_TAG + name for name in ("str", "bool", "int", "float", "null", "timestamp")})
_MARKED = re.compile(rb"^(---[ \t]*\r?\n)" + codecs.BOM_UTF8, re.MULTILINE)
"""Files with byte order marks, one after the other in one; the scanner takes the first."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Nodes:
    """The nodes of a file's documents; the text is read again when somebody asks for the first time."""

    __slots__ = ("_roots", "_text")

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._roots: list[Any] | None = None

    def root(self, index: int) -> Any:
        if self._roots is None:
            try:
                self._roots = list(yaml.compose_all(self._text, Loader=_Loader))
            except yaml.YAMLError:  # JSON that YAML cannot read
                self._roots = []
        return self._roots[index] if index < len(self._roots) else None

    def forget(self) -> None:
        self._roots = None


class Lines:
    """Tells at which line of the file a part of a document stands; reads the text again, so ask for errors only."""

    __slots__ = ("_first", "_index", "_nodes")

    def __init__(self, nodes: _Nodes, *, index: int, first: int) -> None:
        self._nodes = nodes
        self._index = index
        self._first = first

    def at(self, *path: str | int) -> int:
        """The line of the key or item at `path` (keys and list indexes), or of its nearest ancestor that is found."""
        line, node = self._first, self._nodes.root(self._index)
        for step in path:
            if isinstance(node, yaml.MappingNode):
                found = [(key, value) for key, value in node.value if key.value == str(step)]
                if not found:
                    break
                line, node = found[-1][0].start_mark.line + 1, found[-1][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line + 1
            else:
                break
        return line

    def forget(self) -> None:
        """Free what `at` read, which takes fifty times the memory of the text."""
        self._nodes.forget()


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document: `value` is a JSON value, `line` where it begins in the file `where`."""

    value: Any
    line: int
    where: str
    lines: Lines = field(repr=False, compare=False)


def documents(text: bytes, *, where: str, strict: bool = True) -> tuple[Document, ...]:
    """Pure: the documents of one file that have content, in order. UTF-8 or UTF-16, with or without a byte order mark.

    With `strict` off a key that is set twice (or set before a merge that has it) takes its last value.
    Raises InvalidInput whose `thing` is `where:line`.
    """
    if len(text) > MAX_BYTES:
        raise InvalidInput(where, f"has {len(text)} bytes, the limit is {MAX_BYTES}", "split the file")
    if text.startswith(_LFS):
        cause = "is a pointer of Git LFS, and its content is nowhere in the repository"
        raise InvalidInput(f"{where}:1", cause, "commit the file itself: git lfs untrack it")
    if codecs.BOM_UTF8 in text:
        text = _MARKED.sub(rb"\1", text)
    try:
        return _Reader(text, where=where, strict=strict).read()
    except yaml.YAMLError as error:
        begins_json = text.lstrip()[:1] in (b"{", b"[")
        values = json_values.read(text, depth=MAX_DEPTH, nodes=MAX_NODES) if begins_json else None
        if values is not None:
            nodes = _Nodes(b"")
            return tuple(
                Document(value=value, line=line, where=where, lines=Lines(nodes, index=0, first=line))
                for value, line in values
            )
        line, cause = _explain(error, text)
        tabbed = any(b"\t" in part for part in text.split(b"\n", line)[line - 1 : line])
        raise InvalidInput(f"{where}:{line}", cause, "indent with spaces, not tabs" if tabbed else "") from error


def _explain(error: yaml.YAMLError, text: bytes) -> tuple[int, str]:
    """The line (from 1) and the cause of an error of the scanner or the parser."""
    if isinstance(error, yaml.reader.ReaderError):
        return text.count(b"\n", 0, error.position) + 1, f"is not text that YAML allows: {error.reason}"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        cause = ", ".join(part for part in (error.context, error.problem) if part)
        return (mark.line + 1 if mark is not None else 1), f"is not valid YAML: {cause}"
    return 1, f"is not valid YAML: {error}"


@dataclass(slots=True, kw_only=True)
class _Anchor:
    """What an alias stands for. `raw` is a resolved scalar or a finished container; `size` counts its nodes."""

    raw: Any = None
    size: int = 0
    open: bool = True


class _Reader:
    """Turns one file's events into values. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, text: bytes, *, where: str, strict: bool) -> None:
        self._text = text
        self._where = where
        self._strict = strict
        self._parser = _Loader(text)
        self._anchors: dict[str, _Anchor] = {}
        self._nodes = 0  # of the file
        self._decoded = 0  # of the document, with aliases expanded
        self._aliased = 0  # of those, inside an alias

    def read(self) -> tuple[Document, ...]:
        """The documents with content. Raises InvalidInput, or yaml.YAMLError for what the scanner or parser refuses."""
        found: list[Document] = []
        nodes = _Nodes(self._text)
        self._next()  # the start of the stream
        index = 0
        while type(start := self._next()) is not yaml.StreamEndEvent:
            if start.version not in (None, (1, 1)):
                self._refuse(start.start_mark.line + 1, "asks for another YAML than 1.1", "remove the %YAML line")
            self._anchors, self._decoded, self._aliased = {}, 0, 0
            event = self._next()
            line = event.start_mark.line + 1
            value = self._value(self._raw(event, 0), line)
            self._next()  # the end of the document
            if value is not None:
                lines = Lines(nodes, index=index, first=line)
                found.append(Document(value=value, line=line, where=self._where, lines=lines))
            index += 1
        return tuple(found)

    def _next(self) -> Any:
        return self._parser.get_event()

    def _refuse(self, line: int, cause: str, remedy: str = "") -> NoReturn:
        raise InvalidInput(f"{self._where}:{line}", cause, remedy)

    def _count(self, line: int) -> None:
        self._nodes += 1
        self._decoded += 1
        if self._nodes > MAX_NODES:
            self._refuse(line, f"the file has more than {MAX_NODES} values, with aliases expanded", "split the file")

    def _raw(self, event: Any, depth: int) -> Any:
        """What begins with `event`: a container of JSON values, or a scalar before it is made JSON or a key."""
        line = event.start_mark.line + 1
        self._count(line)
        kind = type(event)
        if kind is yaml.AliasEvent:
            return self._alias(event.anchor, line, depth)
        if event.anchor is None:
            return self._content(event, kind, line, depth)
        anchor = self._anchors[event.anchor] = _Anchor()
        before = self._decoded - 1
        anchor.raw = self._content(event, kind, line, depth)
        anchor.size = self._decoded - before
        anchor.open = False
        return anchor.raw

    def _content(self, event: Any, kind: type, line: int, depth: int) -> Any:
        if kind is yaml.ScalarEvent:
            return self._scalar(event, line)
        if depth >= MAX_DEPTH:
            self._refuse(line, f"is nested more than {MAX_DEPTH} levels deep")
        return self._mapping(depth + 1) if kind is yaml.MappingStartEvent else self._sequence(depth + 1)

    def _value(self, raw: Any, line: int) -> Any:
        if type(raw) is float:
            if not math.isfinite(raw):
                self._refuse(line, "infinity and NaN are not JSON values", "quote it if it is meant as a string")
            return yaml_scalars.json_number(raw)
        return raw

    def _scalar(self, event: Any, line: int) -> Any:
        text, tag = event.value, event.tag
        if tag is None:
            return yaml_scalars.resolve(text) if event.implicit[0] else text
        if tag == _TAG + "binary":
            try:
                data = base64.b64decode(re.sub(r"[\r\n]", "", text), validate=True)
            except (binascii.Error, ValueError):
                self._refuse(line, "!!binary value is not valid base64")
            return _SURROGATE.sub("\ufffd", data.decode("utf-8", "surrogateescape"))
        if tag not in _RESOLVED_TAGS or tag == _TAG + "str":
            return text
        return self._tagged(text, tag.removeprefix(_TAG), line)

    def _tagged(self, text: str, tag: str, line: int) -> Any:
        """A scalar whose tag demands what it must be."""
        if tag == "timestamp" and yaml_scalars.is_timestamp(text):
            return text
        raw = yaml_scalars.resolve(text)
        found = {bool: "bool", int: "int", float: "float", type(None): "null"}.get(type(raw), "str")
        if tag == "float" and type(raw) is int and raw in yaml_scalars.INT64:
            return float(raw)
        if found != tag:
            self._refuse(line, f"the value is a !!{found}, not the !!{tag} that its tag says")
        return raw

    def _sequence(self, depth: int) -> list[Any]:
        found: list[Any] = []
        while type(event := self._next()) is not yaml.SequenceEndEvent:
            found.append(self._value(self._raw(event, depth), event.start_mark.line + 1))
        return found

    def _mapping(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        set_at: dict[str, int] = {}
        merged: set[str] = set()
        while type(event := self._next()) is not yaml.MappingEndEvent:
            line = event.start_mark.line + 1
            if _is_merge(event):
                together: dict[str, Any] = {}
                for source in self._merged(self._next(), depth):
                    together |= source
                for key, value in together.items():
                    self._set(found, set_at, key, value, line)
                merged |= together.keys()
                continue
            key = self._key(self._raw(event, depth), line)
            if key in merged:  # replaced once
                merged.remove(key)
                del set_at[key]
            value_event = self._next()
            value = self._value(self._raw(value_event, depth), value_event.start_mark.line + 1)
            self._set(found, set_at, key, value, line)
        return found

    def _set(self, found: dict[str, Any], set_at: dict[str, int], key: str, value: Any, line: int) -> None:
        if self._strict and key in set_at:
            self._refuse(line, f"key {key[:80]!r} is set twice (first on line {set_at[key]})", "keep one of the two")
        found[key] = value
        set_at[key] = line

    def _merged(self, event: Any, depth: int) -> list[dict[str, Any]]:
        """The mappings of a merge key's value, the one that wins last."""
        line = event.start_mark.line + 1
        raw = self._raw(event, depth)
        sources = raw[::-1] if type(raw) is list and type(event) is not yaml.AliasEvent else [raw]
        if not all(type(source) is dict for source in sources):
            self._refuse(line, "a merge key ('<<') takes a mapping or a list of mappings")
        return cast(list[dict[str, Any]], sources)

    def _key(self, raw: Any, line: int) -> str:
        kind = type(raw)
        if kind is str:
            return cast(str, raw)
        if kind is bool:
            return "true" if raw else "false"
        if kind is int and raw in yaml_scalars.INT64:
            return str(raw)
        if kind is float:
            return yaml_scalars.float_key(raw)
        shown = {type(None): "null", int: "an integer beyond 64 bits", dict: "a mapping", list: "a list"}[kind]
        self._refuse(line, f"{shown} cannot be a key", "quote it if it is meant as a string")

    def _alias(self, name: str, line: int, depth: int) -> Any:
        anchor = self._anchors.get(name)
        if anchor is None:
            # Not by its name: it may be somebody's password without its quotes.
            remedy = "an anchor is known after it, within its document; quote a text that begins with '*'"
            self._refuse(line, "unknown anchor", remedy)
        if anchor.open:
            self._refuse(line, "an anchor contains itself")
        self._nodes += anchor.size
        self._decoded += anchor.size
        self._aliased += anchor.size
        if self._nodes > MAX_NODES or _excessive(self._aliased, self._decoded):
            self._refuse(line, "aliases repeat too much of the document", "write the values out, or in fewer layers")
        if depth + json_values.measure(anchor.raw)[0] > MAX_DEPTH:
            self._refuse(line, f"is nested more than {MAX_DEPTH} levels deep")
        return _copy(anchor.raw)


def _is_merge(event: Any) -> bool:
    if type(event) is not yaml.ScalarEvent or event.value != "<<":
        return False
    return bool(event.implicit[0]) or event.tag == _TAG + "merge"


def _copy(value: Any) -> Any:
    """A value of its own for each alias, so that whoever changes one does not change the others."""
    if type(value) is dict:
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if type(value) is list else value


def _excessive(aliased: int, decoded: int) -> bool:
    """Pure: go-yaml's rule: 99 % may come from aliases up to 400,000 nodes, falling to 10 % at 4,000,000.

    Source: go.yaml.in/yaml/v2 decode.go, allowedAliasRatio.
    """
    share = 0.99 - 0.89 * min(max((decoded - 400_000) / 3_600_000, 0.0), 1.0)
    return aliased > 100 and decoded > 1000 and aliased / decoded > share

"""Strict reading of one document of the fleet repo: every field is known and of its type, or a finding says so.

A `Section` is a mapping of the document. Its methods return a field's value, or the default when the field is missing
or wrong; what is wrong is added to the list of findings, with file, line, the field's whole path and a remedy. So one
reading finds everything. A null is a missing field, as for Kubernetes, but not in a selector: an empty one would match
every cluster. Next: `fleet` knows the kinds.
"""

import difflib
import math
import posixpath
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from hub.model import Amount, Finding, Requirement, Selector
from hub.repo.yaml_reader import Document
from proto import ids
from proto.errors import InvalidInput
from proto.objects import canonical

T = TypeVar("T", bound=str)

_DURATION = re.compile(r"(?=\d)(?:(\d{1,6})h)?(?:(\d{1,8})m)?(?:(\d{1,9})s)?", re.ASCII)
_PERCENT = re.compile(r"(\d{1,9})%", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_OPERATORS: tuple[Literal["In", "NotIn", "Exists", "DoesNotExist"], ...] = ("In", "NotIn", "Exists", "DoesNotExist")
_LABEL_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)


def duration_s(text: str) -> float | None:
    """Pure: seconds of a text such as `90s`, `10m` or `1h30m`; None when it is none."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


class Section:
    """A mapping of a document; `path` leads to it."""

    def __init__(
        self,
        document: Document,
        findings: list[Finding],
        *,
        value: object,
        path: tuple[str | int, ...] = (),
        fields: Collection[str],
        not_yet: Collection[str] = (),
    ) -> None:
        """Checks that `value` is a mapping of `fields`; those of `not_yet` are known, and refused until they work."""
        self._document = document
        self._findings = findings
        self._path = path
        self._value: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        if not isinstance(value, Mapping):
            self.problem("has to be a mapping")
        for name in self._value:
            if name in not_yet:
                self.problem("is not carried out by this version of Flotilla", name, remedy="remove it")
            elif name not in fields:
                self.problem("is not a known field", name, remedy=nearest(name, fields, else_=_known(fields)))

    def problem(self, message: str, *steps: str | int, remedy: str = "") -> None:
        """Add a finding about the field at `steps` below here."""
        message = f"{_dotted((*self._path, *steps))} {message}".lstrip()
        self._findings.append(Finding(where=self.place(*steps), message=message, remedy=remedy))

    def place(self, *steps: str | int) -> str:
        """`file:line` of the field at `steps` below here."""
        return f"{self._document.where}:{self._document.lines.at(*self._path, *steps)}"

    def states(self, name: str) -> bool:
        """Whether the field is there, with a null too."""
        return name in self._value

    def has(self, name: str) -> bool:
        return self._value.get(name) is not None

    def section(self, name: str, fields: Collection[str], *, not_yet: Collection[str] = ()) -> "Section":
        """The mapping in field `name`, an empty one when it is missing."""
        value = self._value.get(name)
        return self._below(value if value is not None else {}, (name,), fields, not_yet)

    def sections(self, name: str, fields: Collection[str], *, not_yet: Collection[str] = ()) -> list["Section"]:
        """The mappings in the list `name`."""
        return [
            self._below(value, (name, index), fields, not_yet)
            for index, value in enumerate(self._typed(name, list, []))
        ]

    def _below(
        self, value: object, steps: tuple[str | int, ...], fields: Collection[str], not_yet: Collection[str]
    ) -> "Section":
        path = (*self._path, *steps)
        return Section(self._document, self._findings, value=value, path=path, fields=fields, not_yet=not_yet)

    def text(self, name: str, *, default: str = "") -> str:
        return cast(str, self._typed(name, str, default))

    def flag(self, name: str, *, default: bool) -> bool:
        return cast(bool, self._typed(name, bool, default))

    def choice(self, name: str, words: Sequence[T], *, default: T) -> T:
        """One of `words`."""
        found = self.text(name, default=default)
        for word in words:
            if word == found:
                return word
        self.problem(f"is {found[:80]!r}", name, remedy=nearest(found, words, else_=_known(words)))
        return default

    def name(self, name: str = "name", *, what: str, required: bool = True) -> str:
        """A DNS label; "" when it is missing or none."""
        if not self.has(name):
            if required:
                self.problem("is missing", name, remedy=f"give the {what} a name")
            return ""
        text = self.text(name)
        return self._checked_name(text, what, name) if isinstance(self._value[name], str) else ""

    def names(self, name: str, *, what: str) -> tuple[str, ...]:
        """A list of DNS labels, without those that are none."""
        found = (self._checked_name(text, what, name, index) for index, text in enumerate(self.texts(name)))
        return tuple(dict.fromkeys(text for text in found if text))

    def _checked_name(self, text: str, what: str, *steps: str | int) -> str:
        try:
            return ids.check_name(what, text)
        except InvalidInput as error:
            self.problem(f"{text[:80]!r} {error.cause}", *steps, remedy=error.remedy)
            return ""

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        found = self._typed(name, list, [])
        for index, text in enumerate(found):
            if not isinstance(text, str):
                self.problem(f"is {_kind(text)}, not a string", name, index, remedy=_quote(text))
        return tuple(text for text in found if isinstance(text, str))

    def duration(self, name: str, *, default: float, least: float = 0.0) -> float:
        """Seconds of a text such as `90s`, `10m` or `1h30m`."""
        value = self._value.get(name)
        if value is None:
            return default
        total = 0.0 if value == 0 else duration_s(value) if isinstance(value, str) else None
        if total is None:
            self.problem(f"is {_shown(value)}, not a duration", name, remedy="write for example 90s, 10m or 1h30m")
            return default
        if total < least:
            self.problem(f"is {_shown(value)}", name, remedy=f"give it at least {least:g}s")
            return default
        return total

    def amount(self, name: str, *, default: Amount, least: int = 0) -> Amount:
        """A number of clusters such as `3`, or a share of them such as `25%`."""
        value = self._value.get(name)
        if value is None:
            return default
        match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if match is not None:
            found = Amount(value=int(match[1]), percent=True)
        elif isinstance(value, int) and not isinstance(value, bool):
            found = Amount(value=value)
        else:
            self.problem(f"is {_shown(value)}", name, remedy="write a number of clusters, or a share such as 25%")
            return default
        if found.value < least or (found.percent and found.value > 100):
            self.problem(
                f"is {_shown(value)}", name, remedy=f"write a number from {least}, or a share from {least}% to 100%"
            )
            return default
        return found

    def number(self, name: str) -> float | None:
        """A number, None when it is missing."""
        value = self._value.get(name)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)):
            return value
        self.problem(f"is {_shown(value)}, not a number", name, remedy="write a number such as 0.01")
        return None

    def whole(self, name: str, *, default: int, least: int) -> int:
        """A whole number from `least` on."""
        value = self._value.get(name)
        if value is None:
            return default
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        self.problem(f"is {_shown(value)}", name, remedy=f"write a whole number from {least} on")
        return default

    def wholes(self, name: str, *, least: int, most: int) -> tuple[int, ...]:
        """A list of whole numbers."""
        found = self._typed(name, list, [])
        for index, value in enumerate(found):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                self.problem(f"is {_shown(value)}", name, index, remedy=f"write a whole number, {least} to {most}")
        return tuple(value for value in found if isinstance(value, int) and not isinstance(value, bool))

    def path(self, name: str, *, folder: str) -> str:
        """A path inside the bundle's `folder`, relative to it; "" is the folder itself."""
        return self._inside(self.text(name), folder, name)

    def paths(self, name: str, *, folder: str) -> tuple[str, ...]:
        return tuple(self._inside(text, folder, name, index) for index, text in enumerate(self.texts(name)))

    def _inside(self, text: str, folder: str, *steps: str | int) -> str:
        inside = posixpath.normpath(text)
        if inside == ".." or inside.startswith(("../", "/")):
            self.problem(
                f"is {text[:200]!r}, which is outside of the bundle's folder",
                *steps,
                remedy=f"move it below {folder}/ and write its path from there",
            )
            return ""
        return "" if inside == "." else inside

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Any mapping, as it is."""
        found = cast(Mapping[str, Any], self._typed(name, dict, {}))
        return found if self._is_json(found, name) else {}

    def patch(self, name: str) -> Any:
        """A mapping, a list, or a text that holds one of them."""
        found = self._value.get(name)
        if not isinstance(found, str | Mapping | list):
            self.problem(f"is {_kind(found)}", name, remedy="write a part of an object, or a list of operations")
        return found if self._is_json(found, name) else ""

    def _is_json(self, value: object, name: str) -> bool:
        try:
            canonical({"": value})
        except InvalidInput as error:
            self.problem(error.cause, name, remedy="use numbers of at most 64 bits, or put them in quotes")
            return False
        return True

    def variables(self, name: str = "variables") -> Mapping[str, Any]:
        """Variables: names as in `${name}`, with strings, numbers and booleans."""
        found = self.mapping(name)
        for key, value in found.items():
            if _VARIABLE.fullmatch(key) is None:
                self.problem(
                    "is not a name for a variable",
                    name,
                    key,
                    remedy="use letters, digits and '_', and no digit at the start",
                )
            if key in ("true", "false"):  # y, n, on, off, yes and no are the same to YAML 1.1
                self.problem("is a boolean as a name", name, key, remedy="put the name in quotes, or use another one")
            if value is None or isinstance(value, dict | list):
                self.problem(f"is {_kind(value)}", name, key, remedy="a variable is a string, a number, true or false")
        return found

    def labels(self, name: str) -> Mapping[str, str]:
        """Labels as Kubernetes allows them."""
        found = self.mapping(name)
        for key, value in found.items():
            self._check_label_key(key, name, key)
            self._check_label_value(value, name, key)
        return {key: value for key, value in found.items() if isinstance(value, str)}

    def selector(self, name: str, *, why: str) -> Selector:
        """A Kubernetes label selector. It has to be there: `why` says for what."""
        if not self.has(name):
            self.problem("is missing", name, remedy=f"say {why}; {{}} selects every cluster")
            return Selector()
        section = self.section(name, ("matchLabels", "matchExpressions"))
        for field in ("matchLabels", "matchExpressions"):
            if field in section._value and section._value[field] is None:
                section.problem("is empty", field, remedy=f"write what to match, or {name}: {{}} for every cluster")
        expressions = section.sections("matchExpressions", ("key", "operator", "values"))
        return Selector(
            match_labels=section.labels("matchLabels"),
            match_expressions=tuple(expression._requirement() for expression in expressions),
        )

    def _requirement(self) -> Requirement:
        key, values = self.text("key"), self.texts("values")
        operator = self.choice("operator", _OPERATORS, default=_OPERATORS[0])
        self._check_label_key(key, "key")
        for index, value in enumerate(values):
            self._check_label_value(value, "values", index)
        if not self.has("operator"):
            self.problem("is missing", "operator", remedy="write In, NotIn, Exists or DoesNotExist")
        elif operator in ("In", "NotIn") and not values:
            self.problem(f"have to be given for {operator}", "values", remedy="list at least one")
        elif operator in ("Exists", "DoesNotExist") and values:
            self.problem(f"mean nothing with {operator}", "values", remedy="remove them, or use In or NotIn")
        return Requirement(key=key, operator=operator, values=frozenset(values))

    def _check_label_key(self, key: str, *steps: str | int) -> None:
        prefix, slash, label = key.rpartition("/")
        prefixed = not slash or (len(prefix) <= 253 and _LABEL_PREFIX.fullmatch(prefix))
        if not prefixed or _LABEL_NAME.fullmatch(label) is None:
            self.problem(
                f"{key[:80]!r} is not a label's name", *steps, remedy="write for example tier or example.org/tier"
            )

    def _check_label_value(self, value: object, *steps: str | int) -> None:
        if not isinstance(value, str):
            self.problem(f"is {_kind(value)}, and labels are strings", *steps, remedy=_quote(value))
        elif value and _LABEL_NAME.fullmatch(value) is None:
            self.problem(
                f"{value[:80]!r} is not a label's value",
                *steps,
                remedy="use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
            )

    def _typed(self, name: str, wanted: type, default: object) -> Any:
        value = self._value.get(name)
        if value is None:
            return default
        if isinstance(value, wanted):
            return value
        words: Mapping[type, str] = {str: "a string", bool: "true or false", list: "a list", dict: "a mapping"}
        remedy = _quote(value) if wanted is str else ""
        self.problem(f"is {_kind(value)}, not {words[wanted]}", name, remedy=remedy)
        return default


def nearest(word: str, known: Iterable[str], *, else_: str = "") -> str:
    """Pure: the remedy for a word that is not one of `known`: the one that was probably meant."""
    # Without regard to case: `matchlabels` is the commonest mistake.
    by_lower = {name.lower(): name for name in sorted(known)}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f"did you mean {by_lower[close[0]]!r}?" if close else else_


def _known(words: Iterable[str]) -> str:
    return f"known are: {', '.join(word for word in words if word)}"


def _dotted(path: tuple[str | int, ...]) -> str:
    """`spec.waves[0].name`"""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return "a string"
    return "empty" if value is None else "a list" if isinstance(value, list) else "a mapping"


def _shown(value: object) -> str:
    return repr(value[:80]) if isinstance(value, str) else _kind(value)


def _quote(value: object) -> str:
    return "put it in quotes" if isinstance(value, bool | int | float) else ""

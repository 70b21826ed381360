"""Version ranges as Helm and Flux read them, which is how the Go library Masterminds/semver (version 3.4) does.

| text                        | means                                                                            |
|-----------------------------|----------------------------------------------------------------------------------|
| `1.2.3`, `=1.2.3`           | that version; a leading `v` and build metadata make no difference                |
| `1.2`, `1.2.x`, `1.*`, `*`  | any at the places that are missing or a wildcard                                 |
| `~1.2.3`, `~>1.2.3`         | `>=1.2.3, <1.3.0`; `~1` is `1.x`                                                 |
| `^1.2.3`, `^0.2.3`          | up to the next change of the first part that is not zero                         |
| `>1`, `<=1.2`, `!=1.x`      | a partial version stands for all that begin with it; `<1.2` is `<1.2.0`          |
| `1.2 - 2.3`                 | `>=1.2, <=2.3`                                                                   |
| `a b`, `a, b`, `a b \\|\\| c`  | both; `||` is the weakest                                                        |
| pre-releases                | count only where a part of the range, between `||`, names one                    |

No library for Python has these rules: npm's, which look alike, differ for pre-releases, `>1` and zeros. Tests compare
each row with Helm itself. Next: `external` asks for the newest version, `render.helm` whether a
chart is for a cluster's Kubernetes.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proto.errors import InvalidInput

_Core = tuple[int, int, int]
_Prerelease = tuple[tuple[int, int, str], ...]

_MAX_CHARACTERS = 256
_TAIL = r"(?:-(?P<pre>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
_VERSION = re.compile(r"v?(?P<major>\d{1,19})(?:\.(?P<minor>\d{1,19}))?(?:\.(?P<patch>\d{1,19}))?" + _TAIL, re.ASCII)
_PART = r"\d{1,19}|[xX*]"
_PARTIAL = rf"v?(?P<major>{_PART})(?:\.(?P<minor>{_PART}))?(?:\.(?P<patch>{_PART}))?" + _TAIL
_CONDITION = re.compile(r"(?P<operator>!=|>=|=>|<=|=<|~>|[=<>~^]|)\s*" + _PARTIAL, re.ASCII)
_BARE = re.sub(r"\?P<\w+>", "?:", _PARTIAL)
_HYPHEN = re.compile(rf"\s*({_BARE})\s+-\s+({_BARE})\s*", re.ASCII)
_SEPARATOR = re.compile(r"\s*,\s*|\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """`pre` is () for a release."""

    core: _Core
    pre: _Prerelease = ()

    @property
    def order(self) -> tuple[_Core, bool, _Prerelease]:
        return self.core, not self.pre, self.pre


@dataclass(frozen=True, slots=True, kw_only=True)
class _Condition:
    """`stated` is how many parts of the version are given: 3, or fewer when the rest is missing or a wildcard."""

    operator: str
    version: _Version
    stated: int


def newest(range: str, among: Iterable[str]) -> str | None:
    """Pure: the highest version of `among` that is in `range`, as it is written there; what is no version is passed
    over. A version that is written just like the range comes first, as with Helm.

    Raises InvalidInput when `range` is not one.
    """
    alternatives = _parsed(range)
    best: tuple[tuple[_Core, bool, _Prerelease], str] | None = None
    for text in among:
        if text == range:
            return text
        version = _version(text)
        if version is None or not any(_within(version, conditions) for conditions in alternatives):
            continue
        if best is None or (version.order, text) > best:
            best = version.order, text
    return best[1] if best is not None else None


def is_range(text: str) -> bool:
    """Pure: whether `text` asks for one of several versions. `1.2` and `latest` do not: they may be names of tags."""
    if _VERSION.fullmatch(text) or text in ("x", "X"):
        return False
    try:
        _parsed(text)
    except InvalidInput:
        return False
    return True


def _version(text: str) -> _Version | None:
    found = _VERSION.fullmatch(text) if len(text) <= _MAX_CHARACTERS else None
    if found is None:
        return None
    pre = _prerelease(found["pre"])
    if pre is None:
        return None
    return _Version(core=(int(found["major"]), int(found["minor"] or 0), int(found["patch"] or 0)), pre=pre)


def _prerelease(text: str | None) -> _Prerelease | None:
    """Numbers come before words and in their own order. None for one that is not valid: a number that begins with 0."""
    parts = text.split(".") if text else []
    if any(part.isdigit() and len(part) > 1 and part[0] == "0" for part in parts):
        return None
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts)


def _parsed(text: str) -> list[list[_Condition]]:
    """The alternatives, each of conditions that hold together."""
    if len(text) > _MAX_CHARACTERS:
        raise _invalid(text)
    return [_conditions(part, text) for part in _HYPHEN.sub(r">=\1, <=\2 ", text).split("||")]


def _conditions(part: str, text: str) -> list[_Condition]:
    conditions: list[_Condition] = []
    at, part = 0, part.strip()
    while found := _CONDITION.match(part, at):
        conditions.append(_condition(found, text))
        if found.end() == len(part):
            return conditions
        between = _SEPARATOR.match(part, found.end())
        if between is None:
            break
        at = between.end()
    raise _invalid(text)


def _condition(found: re.Match[str], text: str) -> _Condition:
    stated: list[int] = []
    for name in ("major", "minor", "patch"):
        if (part := found[name]) is None or not part.isdigit():
            break
        stated.append(int(part))
    pre = _prerelease(found["pre"])
    if pre is None:
        raise _invalid(text)
    major, minor, patch = (*stated, 0, 0, 0)[:3]
    version, operator = _Version(core=(major, minor, patch), pre=pre), found["operator"]
    if not stated and _OPERATORS[operator] not in (_equal, _tilde):
        # The library takes `^*`, `!=*` and so on for 0.0.0; what people meant by them cannot be told.
        return _Condition(operator=operator, version=version, stated=2 if _OPERATORS[operator] is _at_most else 3)
    return _Condition(operator=operator, version=version, stated=len(stated))


def _invalid(text: str) -> InvalidInput:
    shown = "".join(c if c.isprintable() else "?" for c in text[:100])
    remedy = "write 1.2.3, ~1.2, ^1 or >=1.2, <3"
    return InvalidInput(f"version {shown!r}", "is not a version or a range of versions", remedy)


def _within(version: _Version, conditions: list[_Condition]) -> bool:
    if version.pre and not any(condition.version.pre for condition in conditions):
        return False
    return all(_OPERATORS[condition.operator](version, condition) for condition in conditions)


def _begins(version: _Version, condition: _Condition) -> bool:
    return version.core[: condition.stated] == condition.version.core[: condition.stated]


def _equal(version: _Version, condition: _Condition) -> bool:
    return version == condition.version if condition.stated == 3 else _tilde(version, condition)


def _not_equal(version: _Version, condition: _Condition) -> bool:
    if condition.stated == 3:
        return version != condition.version
    return not _begins(version, condition) or (condition.stated == 2 and version.pre != condition.version.pre)


def _greater(version: _Version, condition: _Condition) -> bool:
    if condition.stated < 3:
        return version.core[: condition.stated] > condition.version.core[: condition.stated]
    return version.order > condition.version.order


def _at_least(version: _Version, condition: _Condition) -> bool:
    return version.order >= condition.version.order


def _less(version: _Version, condition: _Condition) -> bool:
    return version.order < condition.version.order


def _at_most(version: _Version, condition: _Condition) -> bool:
    if condition.stated < 3:
        return version.core[: condition.stated] <= condition.version.core[: condition.stated]
    return version.order <= condition.version.order


def _tilde(version: _Version, condition: _Condition) -> bool:
    same = min(condition.stated, 2)
    if not any(condition.version.core) and condition.stated == 3:  # as the library has it: ~0.0.0 is any version
        same = 0
    return _at_least(version, condition) and version.core[:same] == condition.version.core[:same]


def _caret(version: _Version, condition: _Condition) -> bool:
    core = condition.version.core
    same = next((index for index, part in enumerate(core) if part), 2) + 1
    same = min(same, condition.stated)
    return _at_least(version, condition) and version.core[:same] == core[:same]


_OPERATORS: dict[str, Callable[[_Version, _Condition], bool]] = {
    "": _equal,
    "=": _equal,
    "!=": _not_equal,
    ">": _greater,
    "<": _less,
    ">=": _at_least,
    "=>": _at_least,
    "<=": _at_most,
    "=<": _at_most,
    "~": _tilde,
    "~>": _tilde,
    "^": _caret,
}

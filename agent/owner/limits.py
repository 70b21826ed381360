"""What the guard ConfigMap says: the cluster's owner's word, that wins over any slice.

Pure. ConfigMap `flotilla-guard` in namespace `flotilla-system`; lists are separated by commas or lines, `- ` before an
item and lines that begin with `#` are fine.

    key                    value                                         a value that cannot be read
    forbiddenKinds         patterns of `Kind.group`: Secret, *.rbac.…    nothing is written at all
    protectedNamespaces    patterns of namespaces: kube-*                nothing is written at all
    maxPrunedShare         30%, or 0.3                                   nothing is pruned
    prune                  true or false                                 nothing is pruned
    any other              what it was to guard, nobody knows            nothing is written at all

    the ConfigMap                                                        limits
    is not known yet, or may not be read                                 nothing is written at all
    is not there                                                         none, but for `UNTOUCHED`
    the connection is lost                                               the last known

Next: `guard_map` watches it; `plan` and the drift guard obey.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from agent.model import Limits
from proto.objects import ObjectKey

NAMESPACE: Final = "flotilla-system"
NAME: Final = "flotilla-guard"
KEY: Final = ObjectKey(group="", kind="ConfigMap", namespace=NAMESPACE, name=NAME)
UNTOUCHED: Final = frozenset(
    {KEY, ObjectKey(group="coordination.k8s.io", kind="Lease", namespace=NAMESPACE, name="flotilla-agent")}
)
"""Of no slice: who could change these could change what limits the slice, and who acts."""

_KEYS: Final = "forbiddenKinds, maxPrunedShare, protectedNamespaces, prune"
_WHERE: Final = f"ConfigMap {NAMESPACE}/{NAME}"
_KIND = re.compile(r"[A-Z*?\[][A-Za-z0-9*?\[\]!-]*(\.[a-z0-9.*?\[\]!-]+)?")
_NAMESPACE = re.compile(r"[a-z0-9*?\[][a-z0-9*?\[\]!-]*")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)")

UNKNOWN: Final = Limits(closed=f"{_WHERE} is not known yet", untouched=UNTOUCHED)
NONE: Final = Limits(untouched=UNTOUCHED)


def closed(why: str) -> Limits:
    """Pure: nothing may be written, because of `why`."""
    return Limits(closed=why, max_pruned_share=0.0, untouched=UNTOUCHED)


def read(data: Mapping[str, Any]) -> tuple[Limits, tuple[str, ...]]:
    """Pure: the limits that the `data` of the ConfigMap sets, and what of it cannot be read, in whole sentences."""
    kinds: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    share, shut = 1.0, ""
    problems = []
    for key, value in sorted(data.items()):
        try:
            match key:
                case "forbiddenKinds":
                    kinds = _patterns(value, _KIND, "Kind or Kind.group, such as Secret or *.rbac.authorization.k8s.io")
                case "protectedNamespaces":
                    namespaces = _patterns(value, _NAMESPACE, "a namespace or a pattern of namespaces, such as kube-*")
                case "maxPrunedShare":
                    share = min(share, _share(value))
                case "prune":
                    share = min(share, 1.0 if _is_true(value) else 0.0)
                case _:
                    raise ValueError(
                        "is no key of it; known are forbiddenKinds, maxPrunedShare, protectedNamespaces, prune"
                    )
        except ValueError as error:
            only_prune = key in ("maxPrunedShare", "prune")
            effect = "nothing is pruned" if only_prune else "nothing is written"
            problems.append(f"{_WHERE}: {key} {error}: {effect} until it is corrected")
            if only_prune:
                share = 0.0
            else:
                shut = shut or problems[-1]
    limits = Limits(
        forbidden_kinds=kinds,
        protected_namespaces=namespaces,
        max_pruned_share=share,
        closed=shut,
        untouched=UNTOUCHED,
    )
    return limits, tuple(problems)


def _patterns(value: Any, form: re.Pattern[str], what: str) -> tuple[str, ...]:
    found = []
    for line in _text(value).splitlines():
        if line.strip().startswith("#"):
            continue
        for item in line.split(","):
            pattern = item.strip().removeprefix("- ").strip()
            if not pattern:
                continue
            if not form.fullmatch(pattern) or pattern.count("[") != pattern.count("]"):
                raise ValueError(f"has {pattern[:100]!r}, which is not {what}")
            found.append(pattern)
    return tuple(found)


def _share(value: Any) -> float:
    found = _SHARE.fullmatch(_text(value).strip())
    share = float(found[1]) / (100.0 if found[2] else 1.0) if found else -1.0
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"is {_text(value)[:100]!r}, not a share such as 30% or 0.3")
    return share


def _is_true(value: Any) -> bool:
    word = _text(value).strip().lower()
    if word not in _WORDS:
        raise ValueError(f"is {word[:100]!r}, neither true nor false")
    return _WORDS[word]


_WORDS: Final = {"true": True, "false": False}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text")
    return value

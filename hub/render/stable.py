"""Whether a chart renders alike each time: random passwords, certificates and times would make another slice of it
with every render, on every hub.

A second render is made only of charts whose files or values call a function that can differ. Pure. Next: `helm` renders
twice and refuses what differs, unless its first result is kept (`pinFirstRender`).

| functions                                               | differ by           |
|---------------------------------------------------------|---------------------|
| `rand*`, `shuffle`, `uuidv4`, `bcrypt`, `htpasswd`,     | chance              |
| `gen*` (keys and certificates), `encryptAES`            |                     |
| `keys`, `values`                                        | the order of a map  |
| `now`, `ago`                                            | the clock           |
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from hub.render import validate
from hub.render.plain import Manifest

_BY_CHANCE = re.compile(
    rb"(?<![\w.$\"'/-])(?:rand(?:Alpha|AlphaNum|Ascii|Bytes|Int|Numeric)|shuffle|uuidv4|bcrypt|htpasswd|encryptAES"
    rb"|gen(?:PrivateKey|CA|CAWithKey|SelfSignedCert|SelfSignedCertWithKey|SignedCert|SignedCertWithKey)|keys|values)(?!\w)"
)
_BY_CLOCK = re.compile(rb"(?<![\w.$\"'/-])(?:now|ago)(?!\w)")
_MAX_OBJECTS = 5
_MAX_PATHS = 5


def may_differ(texts: Iterable[bytes]) -> tuple[bool, bool]:
    """Pure: whether templates among `texts` call functions that differ at all, and by the clock."""
    by_chance = by_clock = False
    for text in texts:
        for action in _actions(text):
            by_chance = by_chance or _BY_CHANCE.search(action) is not None
            by_clock = by_clock or _BY_CLOCK.search(action) is not None
    return by_chance or by_clock, by_clock


def _actions(text: bytes) -> Iterator[bytes]:
    """Each `{{ … }}`. No pattern: one would look for the end anew from every `{{` of a file that has none."""
    end = 0
    while (start := text.find(b"{{", end)) >= 0 and (end := text.find(b"}}", start + 2)) >= 0:
        yield text[start:end]


def differences(first: Sequence[Manifest], second: Sequence[Manifest]) -> list[tuple[Manifest, str]]:
    """Pure: the manifests of `first` that are not in `second`, each with the paths that differ, and never a value. The
    order of manifests does not count: each goes to a file of its own."""
    kept = Counter(map(_bytes, first)) & Counter(map(_bytes, second))
    left, right = _without(first, kept), _without(second, kept)
    found: list[tuple[Manifest, str]] = []
    for one, other in zip(left, right, strict=False):
        paths = [validate.dotted(path) for path in _differing(one.value, other.value, ())]
        more = f" and {len(paths) - _MAX_PATHS} more" if len(paths) > _MAX_PATHS else ""
        found.append((one, ", ".join(paths[:_MAX_PATHS]) + more))
    found += [(one, "the whole object") for one in (left[len(right) :] or right[len(left) :])]
    return found[:_MAX_OBJECTS]


def _bytes(manifest: Manifest) -> bytes:
    return orjson.dumps(manifest.value, option=orjson.OPT_SORT_KEYS)


def _without(manifests: Iterable[Manifest], kept: Counter[bytes]) -> list[Manifest]:
    todo, found = kept.copy(), []
    for manifest in manifests:
        data = _bytes(manifest)
        if todo[data] > 0:
            todo[data] -= 1
        else:
            found.append(manifest)
    return found


def _differing(one: Any, other: Any, path: validate.Path) -> Iterator[validate.Path]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted(one.keys() | other.keys()):
            if name not in one or name not in other:
                yield (*path, name)
            else:
                yield from _differing(one[name], other[name], (*path, name))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from _differing(left, right, (*path, index))
    elif one != other:
        yield path

"""Variables in manifests: `${name}` and `${name:-default}`, filled in per object after the build.

| written                            | becomes                                                             |
|------------------------------------|---------------------------------------------------------------------|
| `${name}` inside a text            | the variable as text (`true`, `3`)                                  |
| `${name}` and nothing else         | the variable with its type, so that `replicas: ${n}` is a number    |
| ... where Kubernetes takes text    | the variable as text (constants below, `value` in `env`)            |
| `${name:-default}`                 | the variable, or the default; alone, `3` or `true` gets its type    |
| `$${name}`                         | `${name}`                                                           |
| anything else (`$(X)`, `${X%%y}`)  | itself: it is a script's                                            |

A name that is not defined is an error, except in scripts (items of `command` and `args`, texts that begin with `#!`):
those have variables of their own, so it stays as it is, with a warning when it looks like a mistyped one of ours.
Keys of mappings are never touched, what was filled in is not looked at again, and an object annotated
`flotilla.dev/substitute: disabled` is left as it is.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

import orjson

from proto.errors import InvalidInput

ANNOTATION = "flotilla.dev/substitute"

_REFERENCE = re.compile(r"(\$?)\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^${}\n]*))?\}", re.ASCII)
_TYPED_DEFAULT = re.compile(r"true|false|0|-?[1-9][0-9]{0,17}", re.ASCII)
"""Not `1.20` or `007`: those are versions and codes more often than numbers."""

_TEXT_BELOW = frozenset({"labels", "annotations", "matchLabels", "matchExpressions", "selector", "nodeSelector"})
"""All scalars below a key of these are text, at any depth of any kind."""
_SHIELDED = "$\ue000{"
"""A character that nobody writes, for it means nothing."""
_SCRIPT_LISTS = frozenset({"args", "command"})
_TEXT_FIELDS: Mapping[str, frozenset[str]] = {
    "ConfigMap": frozenset({"data", "binaryData"}),
    "Secret": frozenset({"data", "stringData"}),
}


def substitute(
    obj: Mapping[str, Any], variables: Mapping[str, Any], *, what: str
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Pure: `obj` with its variables filled in (the very `obj` when there are none), and warnings. `what` names it.

    Raises InvalidInput for a variable that is not defined.
    """
    if b"${" not in orjson.dumps(obj) or _is_disabled(obj):
        return obj, ()
    filler = _Filler(variables, what=what)
    text_fields = {"apiVersion", "kind", "metadata"} | _TEXT_FIELDS.get(str(obj.get("kind")), frozenset())
    filled = {key: filler.walk(value, key=key, text=key in text_fields) for key, value in obj.items()}
    return filled, tuple(filler.warnings)


def substitute_values(values: Any, variables: Mapping[str, Any], *, what: str) -> Any:
    """Pure: Helm values with their variables filled in, each lone one with its type. Raises InvalidInput."""
    return _Filler(variables, what=what, manifest=False).walk(values)


def shielded(value: Any) -> Any:
    """Pure: a copy with every `${` hidden from `substitute`; `unshielded` undoes it."""
    return _replaced(value, "${", _SHIELDED)


def unshielded(value: Any) -> Any:
    """Pure: a copy of what `shielded` gave, with every `${` as it was."""
    return _replaced(value, _SHIELDED, "${")


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, Mapping):
        return {key.replace(old, new): _replaced(child, old, new) for key, child in value.items()}
    return [_replaced(child, old, new) for child in value] if isinstance(value, list) else value


def _is_disabled(obj: Mapping[str, Any]) -> bool:
    metadata = obj.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    return isinstance(annotations, Mapping) and annotations.get(ANNOTATION) == "disabled"


class _Filler:
    """Copies a JSON value with the variables filled in. Only a `manifest` has places that take nothing but text."""

    def __init__(self, variables: Mapping[str, Any], *, what: str, manifest: bool = True) -> None:
        self.warnings: list[str] = []
        self._variables = variables
        self._what = what
        self._manifest = manifest

    def walk(self, value: Any, *, key: str = "", parent: str = "", text: bool = False) -> Any:
        """`key` is the mapping key that leads to `value` and `parent` the one before it, lists not counted; `text`
        says that everything in `value` is text."""
        text = text or (self._manifest and (key in _TEXT_BELOW or (key == "value" and parent == "env")))
        if isinstance(value, str):
            script = self._manifest and (key in _SCRIPT_LISTS or value.startswith("#!"))
            return self._fill(value, text=text, script=script) if "${" in value else value
        if isinstance(value, Mapping):
            return {name: self.walk(child, key=name, parent=key, text=text) for name, child in value.items()}
        if isinstance(value, list):
            text = text or (self._manifest and key in _SCRIPT_LISTS)
            return [self.walk(child, key=key, parent=parent, text=text) for child in value]
        return value

    def _fill(self, value: str, *, text: bool, script: bool) -> Any:
        alone = _REFERENCE.fullmatch(value)
        if alone is not None and not text:
            return self._value(alone, script=script, typed=True)
        return _REFERENCE.sub(lambda found: _as_text(self._value(found, script=script)), value)

    def _value(self, found: re.Match[str], *, script: bool, typed: bool = False) -> Any:
        escaped, name, default = found.groups()
        if escaped:
            return found[0][1:]
        if name in self._variables:
            return self._variables[name]
        if default is not None and not script:
            return orjson.loads(default) if typed and _TYPED_DEFAULT.fullmatch(default) else default
        near = difflib.get_close_matches(name, self._variables, n=3)
        if script:
            if near:
                self.warnings.append(f"{self._what}: ${{{name}}} is left to its script; {' or '.join(near)} is defined")
            return found[0]
        hint = f"did you mean {' or '.join(near)}? Otherwise " if near else ""
        raise InvalidInput(
            self._what,
            f"uses the variable {name!r}, which is not defined for this cluster",
            f"{hint}define it in the cluster, the bundle or fleet.yaml, write $${{{name}}} to keep the text, or"
            f" annotate the object with {ANNOTATION}: disabled",
        )


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()

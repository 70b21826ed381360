"""Variables in manifests: `${name}` and `${name:-default}`, filled in per object after the build.

| written                            | becomes                                                             |
|------------------------------------|---------------------------------------------------------------------|
| `${name}` inside a text            | the variable as text (`true`, `3`)                                  |
| `${name}` and nothing else         | the variable with its type, so that `replicas: ${n}` is a number    |
| ... where Kubernetes takes text    | the variable as text (constants below, `value` in `env`, keys)      |
| `${name:-default}`, `:=`           | the variable, or the default if there is none or it is empty; alone |
|                                    | `3` or `true` gets its type                                         |
| `$${name}`, `$$${name}`            | `${name}`, and `$` with the variable: each `$$` here becomes `$`    |
| other forms of a shell (`${x%%y}`, | an error, for they are filled in elsewhere; `$${x%%y}` is `${x%%y}` |
| `${x^^}`, `${x:0:3}`, `${x-y}`)    |                                                                     |
| anything else (`$(X)`, `${env:X}`) | itself                                                              |

Names are those of `repo.references`. One that is not defined is an error, except in scripts (items of `command` and
`args`, texts that begin with `#!`): those have variables of their own, so it and the forms of a shell stay as they are,
with a warning when one looks like ours. What was filled in is not looked at again, and an object with the annotation
`flotilla.dev/substitute: disabled` (or Flux's, as annotation or label) is left as it is.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import orjson

from hub.render import checks, validate
from hub.repo import references
from proto.errors import InvalidInput

ANNOTATION = "flotilla.dev/substitute"
_FLUX = "kustomize.toolkit.fluxcd.io/substitute"

_REFERENCE = re.compile(
    rf"(?<!\$)(\$*)\$\{{(?:(?P<name>{references.NAME})(?::[-=](?P<default>[^${{}}\n]*))?\}}"
    r"|(?=(?P<form>#?[A-Za-z_][A-Za-z0-9_]*(?:[-=?+,/%#^]|:[-=?+0-9]|:\s+[-0-9]|\s+\})|#[A-Za-z_][A-Za-z0-9_]*\}|\s+\.?[A-Za-z_])))",
    re.ASCII,
)
"""A reference, or the beginning of what another tool fills in."""
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
    obj: Mapping[str, Any], variables: Mapping[str, Any], *, what: str, known: Collection[str] = ()
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """Pure: `obj` with its variables filled in (the very `obj` when there are none), and warnings. `what` names it;
    `known` are variables that are defined too, but are not among the bundle's inputs.

    Raises InvalidInput for a variable that is not defined, and for a form that is not filled in here.
    """
    if b"${" not in orjson.dumps(obj) or _is_disabled(obj):
        return obj, ()
    filler = _Filler(variables, what=what, known=known, secret=checks.is_secret(obj))
    text_fields = {"apiVersion", "kind", "metadata"} | _TEXT_FIELDS.get(str(obj.get("kind")), frozenset())
    filled = {key: filler.walk(value, (key,), key=key, text=key in text_fields) for key, value in obj.items()}
    return filled, tuple(filler.warnings)


def substitute_values(values: Any, variables: Mapping[str, Any], *, what: str, known: Collection[str] = ()) -> Any:
    """Pure: Helm values with their variables filled in, each lone one with its type. Raises InvalidInput."""
    return _Filler(variables, what=what, known=known, manifest=False).walk(values, ())


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
    metadata = metadata if isinstance(metadata, Mapping) else {}
    annotations, labels = metadata.get("annotations"), metadata.get("labels")
    said = [annotations.get(ANNOTATION), annotations.get(_FLUX)] if isinstance(annotations, Mapping) else []
    said += [labels.get(_FLUX)] if isinstance(labels, Mapping) else []
    return "disabled" in said


class _Filler:
    """Copies a JSON value with the variables filled in. Only a `manifest` has places that take nothing but text; of a
    `secret` no more is told than names."""

    def __init__(
        self,
        variables: Mapping[str, Any],
        *,
        what: str,
        known: Collection[str],
        manifest: bool = True,
        secret: bool = False,
    ) -> None:
        self.warnings: list[str] = []
        self._variables = variables
        self._known = known
        self._what = what
        self._manifest = manifest
        self._secret = secret

    def walk(self, value: Any, path: validate.Path, *, key: str = "", parent: str = "", text: bool = False) -> Any:
        """`key` is the mapping key that leads to `value` and `parent` the one before it, lists not counted; `text`
        says that everything in `value` is text."""
        text = text or (self._manifest and (key in _TEXT_BELOW or (key == "value" and parent == "env")))
        if isinstance(value, str):
            script = self._manifest and (key in _SCRIPT_LISTS or value.startswith("#!"))
            return self._fill(value, path, text=text, script=script) if "${" in value else value
        if isinstance(value, Mapping):
            return self._filled_mapping(value, path, parent=key, text=text)
        if isinstance(value, list):
            text = text or (self._manifest and key in _SCRIPT_LISTS)
            return [self.walk(child, (*path, i), key=key, parent=parent, text=text) for i, child in enumerate(value)]
        return value

    def _filled_mapping(
        self, value: Mapping[str, Any], path: validate.Path, *, parent: str, text: bool
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, child in value.items():
            key = self._fill(name, (*path, name), text=True, script=False) if "${" in name else name
            if key in found or (key != name and key in value):
                cause = f"has the key {key!r} twice in {validate.dotted(path)} when variables are filled in"
                raise InvalidInput(self._what, cause, "give the two other names")
            found[key] = self.walk(child, (*path, name), key=name, parent=parent, text=text)
        return found

    def _fill(self, value: str, path: validate.Path, *, text: bool, script: bool) -> Any:
        alone = _REFERENCE.fullmatch(value)
        if alone is not None and not alone[1] and not text:
            return self._value(alone, path, script=script, typed=True)
        return _REFERENCE.sub(lambda found: self._value(found, path, script=script), value)

    def _value(self, found: re.Match[str], path: validate.Path, *, script: bool, typed: bool = False) -> Any:
        name, default, before = found["name"], found["default"], len(found[1])
        if name is None:
            return self._other_form(found, path, script=script)
        if before % 2:
            return _unescaped(found)
        value = self._variables.get(name)
        if default is not None and (value == "" or (value is None and not script and name not in self._known)):
            value = orjson.loads(default) if typed and _TYPED_DEFAULT.fullmatch(default) else default
        if value is not None:
            return value if typed else "$" * (before // 2) + _as_text(value)
        if name in self._known:
            cause = f"uses the variable {name!r}, and no file of the bundle has ${{{name}}} in one piece"
            raise InvalidInput(self._what, cause, "write it into one of them, a comment is enough")
        near = _near(name, (*self._variables, *self._known))
        if script:
            if near:
                self.warnings.append(f"{self._what}: ${{{name}}} is left to its script; {' or '.join(near)} is defined")
            return found[0]
        hint = f"did you mean {' or '.join(near)}? Otherwise " if near else ""
        where = (
            "give the cluster the label"
            if name.startswith(references.LABEL)
            else ("define it in the cluster, the bundle or fleet.yaml")
        )
        raise InvalidInput(
            self._what,
            f"uses the variable {name!r}, which is not defined for this cluster, in {validate.dotted(path)}",
            f"{hint}{where}, write $${{{name}}} to keep the text, or annotate the object with {ANNOTATION}: disabled",
        )

    def _other_form(self, found: re.Match[str], path: validate.Path, *, script: bool) -> str:
        """What stays of the beginning of a form that is not filled in here."""
        start = found.start() + len(found[1])
        shown = found.string[start : start + 60].partition("\n")[0].partition("}")[0] + "}"
        if self._secret:
            shown = f"${{{found['form'].strip()}…}}"
        if script:
            name = re.sub(r"^[\s#.]*|[^A-Za-z0-9_].*$", "", found["form"].strip())
            if name in self._variables or name in self._known:
                self.warnings.append(f"{self._what}: {shown} is left to its script; only ${{{name}}} is filled in")
            return found[0]
        if len(found[1]) % 2:
            return _unescaped(found)
        raise InvalidInput(
            self._what,
            f"has {shown} in {validate.dotted(path)}, and only ${{name}} and ${{name:-default}} are filled in",
            f"write $${shown[1:]} to keep the text, or annotate the object with {ANNOTATION}: disabled",
        )


@lru_cache(maxsize=4096)
def _near(name: str, names: tuple[str, ...]) -> list[str]:
    """Those like it. Kept: a script has its own variables many times, and every cluster has the script."""
    return difflib.get_close_matches(name, names, n=3)


def _unescaped(found: re.Match[str]) -> str:
    """What an even number of dollars is before."""
    dollars = len(found[1]) + 1
    return "$" * (dollars // 2) + found[0][dollars:]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()

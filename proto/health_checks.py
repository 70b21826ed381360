"""Health of a kind by a bundle's own CEL expressions: what `healthChecks` of a Bundle say, compiled once.

    variable                                        is
    object                                          the whole live object
    metadata, spec, status, data                    its fields, {} for one that is missing
    apiVersion, kind                                its strings

    the first of these that is true                 health
    failed                                          Failed
    in_progress                                     InProgress
    current                                         Current
    none of them                                    InProgress

A field that is missing, or any other error of an evaluation, makes that expression false: early in its life an object
has no status. An expression that no object could ever make true or false (syntax, an unknown name or function, types
that do not fit, another result than a bool) is a `problem`: the hub refuses the bundle, and an agent that gets it
nevertheless says Unknown. The bare fields are there so that the expressions that people have for Flux can be pasted.

The library bounds how deep an expression is and how many steps it takes; we bound its length. `health.health` calls
this after what stands above every check: a deletion, and a status from before the last change.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from proto.health import Check, Verdict
from proto.messages import Health
from proto.objects import group_of
from proto.slices import HealthCheck

if TYPE_CHECKING:
    from cel_expr_python.cel import Env, Expression

REASON: Final = "HealthCheck"
LONGEST: Final = 4096
"""Characters of one expression: compiling and evaluating this many takes milliseconds."""
_COMPILED: Final = 256
"""Checks kept compiled: more than the custom kinds of a cluster that have one."""
_FIELDS: Final = ("metadata", "spec", "status", "data")
_TEXTS: Final = ("apiVersion", "kind")


def problem(check: HealthCheck) -> str:
    """Pure: why a check can never work, as one sentence that begins with the expression's field; "" if it can."""
    if not check.current.strip():
        return "current is empty: the object could never be Current"
    for name, text in _expressions(check):
        wrong = _compile(text)
        if isinstance(wrong, str):
            return f"{name} {wrong}"
    return ""


def check_for(checks: Iterable[HealthCheck], api_version: str, kind: str) -> Check | None:
    """Pure: the compiled check of a kind, None when there is none. One for another version of the kind counts too when
    there is none for this one: a check that was written is never passed over in silence."""
    group = group_of(api_version)
    found = [check for check in checks if check.kind == kind and group_of(check.api_version) == group]
    found.sort(key=lambda check: check.api_version != api_version)
    return compiled(found[0]) if found else None


@lru_cache(maxsize=_COMPILED)
def compiled(check: HealthCheck) -> Check:
    """Pure: a check, ready to be asked of many objects."""
    wrong = problem(check)
    if wrong:
        return lambda obj: (Health.UNKNOWN, REASON, f"the health check of {check.kind} cannot be used: {wrong}")
    programs = {name: program for name, text in _expressions(check) if not isinstance(program := _compile(text), str)}
    secret = check.kind == "Secret" and not group_of(check.api_version)
    return lambda obj: _asked(programs, obj, secret=secret)


@cache
def _env() -> "Env":
    # The library takes 15 MB of memory, and few bundles have a health check.
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_optional, ext_strings

    return cel.NewEnv(
        variables={
            **{name: cel.Type("map<string, dyn>") for name in ("object", *_FIELDS)},
            **dict.fromkeys(_TEXTS, cel.Type.STRING),
        },
        extensions=[ext_optional.ExtOptional(), ext_strings.ExtStrings()],
    )


def _asked(programs: Mapping[str, "Expression"], obj: Mapping[str, Any], *, secret: bool) -> Verdict:
    fields = {name: found if isinstance(found := obj.get(name), Mapping) else {} for name in _FIELDS}
    texts = {name: str(obj.get(name, "")) for name in _TEXTS}
    values, status = {"object": obj, **fields, **texts}, fields["status"]
    error = ""
    for name, word in _WORDS.items():
        if name in programs:
            is_true, error = _evaluate(programs[name], values)
            if is_true and word is Health.CURRENT:
                return word, REASON, ""
            if is_true:
                return word, REASON, _sentence(f"its health check's {name} is true", status, secret=secret)
    # The last one asked was `current`.
    return (
        Health.IN_PROGRESS,
        REASON,
        _sentence("its health check's current is not true yet", status, error, secret=secret),
    )


def _sentence(begin: str, status: Mapping[str, Any], error: str = "", *, secret: bool) -> str:
    """What an error or a condition says comes from the object, so that of a Secret it is not told."""
    if secret:
        return begin
    return "; ".join(part for part in (begin + (f" ({error})" if error else ""), _condition(status)) if part)


def _evaluate(program: "Expression", values: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether it is true, and why it could not be said, in one line."""
    try:
        result = program.eval(data=values)
    except (RuntimeError, TypeError, ValueError) as error:
        return False, _line(str(error))
    match result.type().name():
        case "BOOL":
            return result.value() is True, ""
        case "ERROR":
            return False, _line(str(result.value()))
        case other:
            return False, f"it is of type {other}, not BOOL"


def _compile(text: str) -> "Expression | str":
    """The program, or what is wrong with the expression."""
    if len(text) > LONGEST:
        return f"is {len(text)} characters long, more than {LONGEST}"
    try:
        program = _env().compile(text)
    except (RuntimeError, ValueError) as error:
        return f"is no CEL expression: {_line(str(error))}"
    if program.return_type().name() not in ("BOOL", "DYN"):
        return f"is of type {program.return_type().name()}, not BOOL"
    return program


def _expressions(check: HealthCheck) -> list[tuple[str, str]]:
    """Those that there are, by the names that they have in a Bundle."""
    texts = {"failed": check.failed, "inProgress": check.in_progress, "current": check.current}
    return [(name, texts[name]) for name in _WORDS if texts[name].strip()]


_WORDS: Final = {"failed": Health.FAILED, "inProgress": Health.IN_PROGRESS, "current": Health.CURRENT}
"""In the order in which they are asked."""


def _condition(status: Mapping[str, Any]) -> str:
    """What the object's conditions say: Ready first if it is not True, then others that are not, then the rest."""
    found = status.get("conditions")
    conditions = [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
    conditions.sort(key=lambda one: (one.get("status") == "True", one.get("type") != "Ready"))
    for one in conditions:
        if one.get("message"):
            return f"{one.get('type')} is {one.get('status')}: {one['message']}"
    return ""


_CODE: Final = re.compile(r"^[A-Z_]+: ")


def _line(text: str) -> str:
    """The library's words without its pictures of the place, in one line of bounded length."""
    first = text.split("\n | ")[0].split(" [")[0]
    words = " ".join(_CODE.sub("", first).replace("ERROR: <input>:", "").split())
    return words if len(words) <= 300 else f"{words[:299]}…"

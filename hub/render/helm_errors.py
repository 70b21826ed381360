"""What Helm says of a chart that does not render, for people: at the template's file and line, without a value.

A value of the chart's may be a password; what a chart itself says by `fail` and `required` is told as it stands.

| Helm quotes a value                                   | here                                                   |
|-------------------------------------------------------|--------------------------------------------------------|
| that its schema's pattern does not match              | "the value does not match pattern …"                   |
| that `tpl` takes for a template                       | (hidden)                                               |
| that is no date, duration, number, range or pattern   | (hidden)                                               |
| over which `range` cannot go                          | "range can't iterate over it"                          |

Next: `helm` raises it.
"""

import re
from pathlib import Path

_MAX_READ, _MAX_CHARACTERS = 64 << 10, 2000
_PLACE = re.compile(r"(?<![^\s(])[^/\s:()]+/([^\s:()]+):(\d+)")
"""`chart/templates/file.yaml:line`, the chart's name before the path in its folder."""
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_VALUES = (
    (re.compile(r"'(?:[^'\\]|\\.)*'(?= does not match pattern)"), "the value"),
    (
        re.compile(rf"(cannot parse template|execution for|improper constraint:|invalid duration) {_QUOTED}"),
        r"\1 (hidden)",
    ),
    (re.compile(rf"(parsing (?:time )?|parse ){_QUOTED}(?: as {_QUOTED}: cannot parse {_QUOTED})?"), r"\1(hidden)"),
    (re.compile(r"(error parsing regexp: [^`\n]*)`[^\n]*`"), r"\1(hidden)"),
    (re.compile(r"(range can't iterate over) .*?(?=\n  |\Z)", re.DOTALL), r"\1 it"),
)


def told(text: str, *, chart: Path, name: str) -> tuple[str, str]:
    """Where the error is, in the folder `chart` that messages call `name`, and its words without any value.

    Of several places the last counts: those before it are of templates that include this one.
    """
    where, text = name, text[:_MAX_READ]
    for found in _PLACE.finditer(text):
        if ".." not in found[1] and (chart / found[1]).is_file():
            where = f"{name}/{found[1]}:{found[2]}"
    for pattern, instead in _VALUES:
        text = pattern.sub(instead, text)
    return where, text.replace(str(chart), name).strip()[:_MAX_CHARACTERS]

"""Clusters from a table: each row of a CSV file, or object of a JSON list, to the document of a Cluster.

| field (the name of a column)  | what                                                              |
|-------------------------------|-------------------------------------------------------------------|
| `name`                        | `metadata.name`                                                   |
| `kubernetes`, `decommission`  | `spec` of that name                                               |
| `labels.<label>`              | a label                                                           |
| `variables.<name>`            | a variable; in CSV text, or with `:int`, `:float`, `:bool` behind |
| `labels`, `variables`         | only in JSON: a whole mapping                                     |

Without `columns` each column has to be a field, so that a typing error takes no label away; with them (field → column)
all other columns are passed over. An empty cell of a CSV file says nothing. A row that is wrong is lost alone. Next:
`fleet` reads the documents as those of any Cluster file.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hub.repo.salvage import Broken
from hub.repo.schema import nearest
from hub.repo.yaml_reader import Document, Lines
from proto.errors import InvalidInput

_PLAIN = ("name", "kubernetes", "decommission")
_WHOLE = ("labels", "variables")
_FIELD = re.compile(
    r"name|kubernetes|decommission|labels\.(?P<label>.+)|variables\.(?P<variable>[^:]+)(:(?P<type>.+))?"
)
_BOOLS = {"true": True, "false": False}
_TYPES: Mapping[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "int": (re.compile(r"[-+]?[0-9]{1,18}", re.ASCII), int),
    "float": (re.compile(r"[-+]?[0-9]{1,18}(\.[0-9]{1,18})?", re.ASCII), float),
    "bool": (re.compile("true|false"), _BOOLS.__getitem__),
}
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a ClusterTable says: `path` of the table in the repo, field → its column; `where` it says so."""

    path: str
    columns: Mapping[str, str]
    where: str


class _Line(Lines):
    """A row is one line as far as messages go."""

    __slots__ = ("_line",)

    def __init__(self, line: int) -> None:
        self._line = line

    def at(self, *path: str | int) -> int:
        return self._line

    def forget(self) -> None:
        pass


def field_problem(field: str, *, typed: bool) -> tuple[str, str] | None:
    """Pure: why `field` is none, and the remedy. `typed` is whether it may say a type."""
    match = _FIELD.fullmatch(field)
    if match is None:
        known = (*_PLAIN, "labels.<label>", "variables.<name>")
        remedy = nearest(field, known, else_=f"known are: {', '.join(known)}")
        return f"{field[:80]!r} is not a field of a cluster", remedy
    if match["type"] and not typed:
        return f"{field[:80]!r} has a type", "remove it: JSON has types of its own"
    if match["type"] and match["type"] not in _TYPES:
        return f"{field[:80]!r} has an unknown type", "write :int, :float or :bool"
    return None


def read(data: bytes, table: Table) -> tuple[tuple[Document, ...], tuple[Broken, ...]]:
    """Pure: a document for each good row, and a `Broken` for each other one; one without a name when all is lost."""
    documents: list[Document] = []
    broken: list[Broken] = []
    is_csv = table.path.endswith(".csv")
    try:
        for line, row in _csv_rows(data, table) if is_csv else _json_rows(data, table):
            name = row.get(table.columns.get("name", "name")) if isinstance(row, Mapping) else None
            try:
                value = _cluster(row, table, is_csv=is_csv)
            except InvalidInput as error:
                broken.append(_broken(table, line, error.cause, error.remedy, name=name))
            else:
                documents.append(Document(value=value, line=line, where=table.path, lines=_Line(line)))
    except InvalidInput as error:
        broken.append(Broken(error=error, things=()))
    return tuple(documents), tuple(broken)


def _broken(table: Table, line: int, cause: str, remedy: str, *, name: object) -> Broken:
    things = (("Cluster", name),) if isinstance(name, str) and name else ()
    return Broken(error=InvalidInput(f"{table.path}:{line}", cause, remedy), things=things)


def _cluster(row: object, table: Table, *, is_csv: bool) -> Mapping[str, Any]:
    """The Cluster of one row. Raises InvalidInput, whose thing is not used."""
    if not isinstance(row, Mapping):
        raise InvalidInput("", "is not a mapping of columns", 'write for example {"name": "eu-1"}')
    if None in row:
        raise InvalidInput("", "has not as many cells as the first line", "put cells that have a comma into quotes")
    labels: dict[str, Any] = {}
    variables: dict[str, Any] = {}
    metadata: dict[str, Any] = {"labels": labels}
    spec: dict[str, Any] = {"variables": variables}
    for field, column in table.columns.items() if table.columns else ((name, name) for name in row):
        value = row.get(column)
        if value is None or (is_csv and value == ""):
            continue
        if field in _WHOLE and not is_csv and isinstance(value, Mapping):
            (labels if field == "labels" else variables).update(value)
            continue
        if problem := field_problem(field, typed=is_csv):
            raise InvalidInput("", *problem)
        match = _FIELD.fullmatch(field)
        assert match is not None
        if match["label"]:
            labels[match["label"]] = value
        elif match["variable"]:
            variables[match["variable"]] = _typed(value, match["type"], field) if match["type"] else value
        else:
            (metadata if field == "name" else spec)[field] = value
    return {"apiVersion": "flotilla.dev/v1alpha1", "kind": "Cluster", "metadata": metadata, "spec": spec}


def _typed(text: str, kind: str, field: str) -> Any:
    pattern, convert = _TYPES[kind]
    if pattern.fullmatch(text) is None:
        remedy = "write true or false" if kind == "bool" else "write a number"
        raise InvalidInput("", f"{field} is {text[:80]!r}", remedy)
    return convert(text)


def _decoded(data: bytes, table: Table) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(table.path, "is not UTF-8", "save it as UTF-8") from error


def _csv_rows(data: bytes, table: Table) -> Iterator[tuple[int, Mapping[str | None, str | None]]]:
    """Each row with the line where it begins; a row has the key None when its cells do not fit the first line's."""
    reader = csv.reader(_decoded(data, table).splitlines(keepends=True), strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InvalidInput(f"{table.path}:{line}", f"is not CSV: {error}", "correct the quotes") from error
        if row is None:
            break
        if not any(row):
            continue
        if not header:
            header = [cell.strip() for cell in row]
            _check_header(header, f"{table.path}:{line}", table)
        else:
            cells: dict[str | None, str | None] = dict(zip(header, (cell.strip() for cell in row), strict=False))
            yield line, cells if len(row) == len(header) else {**cells, None: None}
    if not header:
        raise InvalidInput(table.path, "is empty", "write the names of the columns into its first line")


def _check_header(header: list[str], where: str, table: Table) -> None:
    wanted = table.columns.values() if table.columns else ("name",)
    for column in wanted:
        if column not in header:
            remedy = nearest(column, header, else_="separate columns by commas, and name them in the first line")
            raise InvalidInput(where, f"has no column {column[:80]!r}", remedy)
        if header.count(column) > 1:
            raise InvalidInput(where, f"has two columns {column[:80]!r}", "rename or remove one of the two")
    for column in () if table.columns else header:
        if header.count(column) > 1:
            raise InvalidInput(where, f"has two columns {column[:80]!r}", "rename or remove one of the two")
        if problem := field_problem(column, typed=True):
            raise InvalidInput(where, problem[0], f"{problem[1]}; or say which columns count in spec.columns")


def _json_rows(data: bytes, table: Table) -> Iterator[tuple[int, object]]:
    """Each item of the list with its line, read one by one: only so they have lines."""
    text = _decoded(data, table)
    decoder = json.JSONDecoder(object_pairs_hook=_without_doubles, parse_constant=_no_constant, parse_float=_finite)
    line, seen = 1, 0

    def skipped(at: int) -> int:
        nonlocal line, seen
        match = _SPACE.match(text, at)
        end = match.end() if match else at
        line, seen = line + text.count("\n", seen, end), end
        return end

    at = skipped(0)
    if text[at : at + 1] != "[":
        raise InvalidInput(f"{table.path}:{line}", "is not a list", 'write for example [{"name": "eu-1"}]')
    at = skipped(at + 1)
    more = text[at : at + 1] != "]"
    while more:
        try:
            row, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"{table.path}:{line}", f"is not JSON: {error}", "correct it") from error
        yield line, row
        at = skipped(end)
        more = text[at : at + 1] == ","
        if more:
            at = skipped(at + 1)
        elif text[at : at + 1] != "]":
            raise InvalidInput(f"{table.path}:{line}", "is not JSON: a comma is missing", "correct it")
    if skipped(at + 1) != len(text):
        raise InvalidInput(f"{table.path}:{line}", "has something after its list", "remove it")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is set twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:80]} is too large a number")
    return number


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a number")

"""msgspec prepares a type when it is first decoded. Another thread that decodes it meanwhile reads it half done, and
the process dies (SIGSEGV, msgspec 0.22). Agent and hub decode in threads, so modules prepare types when they load.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
SINGLE_THREADED = {"hub/render/build.py"}
"""Run in worker processes only, which have one thread."""


def prepared_late(text: str) -> Iterator[int]:
    """Lines within functions that name a type to decode."""
    for outer in ast.walk(ast.parse(text)):
        if not isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(outer):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                typed = called.endswith((".decode", ".Decoder")) and any(word.arg == "type" for word in node.keywords)
                if called == "msgspec.convert" or (called.startswith("msgspec.") and typed):
                    yield node.lineno


def test_no_function_names_a_type_to_decode() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for half in ("agent", "hub", "proto")
        for path in sorted((ROOT / half).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in SINGLE_THREADED
        for line in prepared_late(path.read_text())
    ]
    assert found == []


def test_a_type_that_is_named_in_a_function_is_found() -> None:
    assert list(prepared_late("def f(x):\n    return msgspec.json.decode(x, type=Thing)\n")) == [2]
    assert list(prepared_late("read = msgspec.json.Decoder(type=Thing).decode\n")) == []

"""Whatever differs between two renders is told, and nothing of a Secret's values is."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hub.cli import changes
from proto.objects import canonical

words = st.sampled_from(["a", "b", "name", "port", "key", "x.y", "x/y", ""])
scalars = st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, 1.0, 1.5]) | words
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner | st.none(), max_size=4) | st.dictionaries(words, inner, max_size=3),
    max_leaves=12,
)


def told(before: Any, after: Any, kind: str = "ConfigMap") -> tuple[changes.ObjectChange, ...]:
    def file(fields: Any) -> bytes:
        return canonical({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, **fields})

    path = f"_cluster/{kind}/x.json"
    return changes.object_changes("shop", {path: file(before)}, {path: file(after)})


@given(before=values, after=values)
def test_what_differs_is_told_and_what_does_not_is_not(before: Any, after: Any) -> None:
    found = told({"spec": before}, {"spec": after})
    if canonical(before) == canonical(after):
        assert found == ()
    else:
        (change,) = found
        assert change.fields
        for field in change.fields:
            assert field.path.startswith("spec")
            assert canonical(field.before) != canonical(field.after)


@given(
    before=st.dictionaries(words, st.text("0123456789", min_size=12, max_size=12), max_size=3),
    after=st.dictionaries(words, st.text("0123456789", min_size=12, max_size=12), max_size=3),
)
def test_no_value_of_a_secret_is_told(before: dict[str, str], after: dict[str, str]) -> None:
    found = told({"data": before}, {"data": after}, kind="Secret")
    text = json.dumps([change.to_json() for change in found])
    assert not [value for value in (*before.values(), *after.values()) if value in text]
    assert bool(found) == (before != after)

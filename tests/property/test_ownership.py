"""Whatever is owned by whomever: no path is lost, none is invented, and only what was asked for changes hands."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.fields import ownership, steal
from agent.fields.ownership import FieldPath, Paths

ELEMENT = st.sampled_from(["f:a", "f:b", "f:c", 'k:{"name":"x"}', 'k:{"name":"y"}', 'v:"z"', "i:0"])
PATHS = st.frozensets(st.lists(ELEMENT, min_size=1, max_size=4).map(tuple), max_size=12)
ENTRY = st.tuples(st.sampled_from(["flotilla", "kubectl-edit", "helm", "kubelet"]), st.booleans(), PATHS)


def live(entries: list[tuple[str, bool, Paths]]) -> dict[str, Any]:
    """One entry for each manager and operation, as the server keeps them."""
    unique = {(manager, apply): paths for manager, apply, paths in entries}
    return {
        "metadata": {
            "resourceVersion": "1",
            "managedFields": [
                {
                    "manager": manager,
                    "operation": "Apply" if apply else "Update",
                    "apiVersion": "v1",
                    "fieldsV1": ownership.to_fields(paths),
                }
                for (manager, apply), paths in unique.items()
            ],
        }
    }


def all_owned(obj: dict[str, Any]) -> Paths:
    return frozenset[FieldPath]().union(*(ownership.owned(entry) for entry in obj["metadata"]["managedFields"]))


@given(PATHS)
def test_fields_and_paths_are_two_forms_of_one_thing(paths: Paths) -> None:
    assert ownership.owned({"fieldsV1": ownership.to_fields(paths)}) == paths


@given(PATHS)
def test_every_path_is_shown_or_lies_below_one_that_is(paths: Paths) -> None:
    shown = ownership.render(paths)
    assert len(shown) == len(set(shown))
    assert all(any(whole.startswith(above) for above in shown) for path in paths for whole in ownership.render([path]))


@given(st.lists(ENTRY, max_size=5), st.data())
def test_a_theft_moves_exactly_what_it_should(entries: list[tuple[str, bool, Paths]], data: st.DataObject) -> None:
    before = live(entries)
    own = ownership.own_entry(before)
    robbed = [e for e in ownership.foreign(before) if e["manager"] not in ownership.CONTROLLERS]
    available = sorted(frozenset[FieldPath]().union(*(ownership.owned(entry) for entry in robbed)))
    stolen = frozenset(data.draw(st.lists(st.sampled_from(available), unique=True))) if available else frozenset()
    patch = steal.steal(before, stolen)
    if own is None or not stolen:
        assert patch is None
        return
    assert patch is not None
    after = {"metadata": {"managedFields": patch[1]["value"]}}
    assert all_owned(after) == all_owned(before)
    assert ownership.owned(ownership.own_entry(after)) == ownership.owned(own) | stolen
    left = {(e["manager"], e["operation"]): ownership.owned(e) for e in ownership.foreign(after)}
    for entry in ownership.foreign(before):
        kept = ownership.owned(entry) - (stolen if entry in robbed else frozenset())
        assert left.get((entry["manager"], entry["operation"]), frozenset()) == kept

"""What holds of every render: equal inputs give equal bytes, what we print is what was meant, folders are Git trees."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pygit2
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.cli import offline
from hub.render import build, objects, plain, variables
from hub.repo import sources, yaml_reader

NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True)
TEXTS = st.one_of(
    st.text(max_size=12).filter(lambda text: "${" not in text),
    st.sampled_from(
        ["y", "NO", "on", "1e3", "0o7", "07", "12:30:45", "2020-01-01", "~", "", " a", "a: b", "# c", ".inf", "0x1"]
    ),
    st.sampled_from(
        ["${a}", "x-${b}", "$${a}", "${c:-d}", "line\n  two\n", "\n", "tail\n\n", "a\tb", "\u2028", "\x85"]
    ),
).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))
KEYS = TEXTS.filter(lambda text: "${" not in text)
"""Keys with variables may be two of one name once these are filled in."""
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)
MANIFESTS = st.fixed_dictionaries(
    {
        "apiVersion": st.sampled_from(["v1", "apps/v1", "example.org/v1"]),
        "kind": st.sampled_from(["Thing", "Deployment", "Other"]),
        "metadata": st.fixed_dictionaries({"name": NAMES}),
        "spec": VALUES,
    }
)
VARIABLES = {"a": 3, "b": "text", "c": True}
INPUTS = {
    "path": "",
    "namespace": "shop",
    "helm": None,
    "variables": VARIABLES,
    "kubernetes": "",
    "policy": {"name": "x"},
}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        MANIFESTS,
        min_size=1,
        max_size=4,
        unique_by=lambda obj: (obj["apiVersion"], obj["kind"], obj["metadata"]["name"]),
    )
)
def test_equal_manifests_give_equal_bytes_in_whatever_files_they_stand(manifests: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        one, many = Path(name, "one"), Path(name, "many")
        one.mkdir()
        many.mkdir()
        (one / "all.yaml").write_text("".join(f"---\n{offline.to_yaml(obj)}" for obj in manifests))
        for index, obj in enumerate(reversed(manifests)):
            reordered = dict(reversed(list(obj.items())))
            (many / f"{index}.json").write_text(json.dumps(reordered, indent=4))
        first = build.render(one, INPUTS, bundle="x")
        assert first.files == build.render(many, INPUTS, bundle="x").files
        assert len(first.files) == len(manifests) + 1


@settings(max_examples=50, deadline=None)
@given(MANIFESTS)
def test_what_people_are_shown_reads_back_as_the_same_object(manifest: dict[str, Any]) -> None:
    (document,) = yaml_reader.documents(offline.to_yaml(manifest).encode(), where="shown")
    assert document.value == manifest


@settings(max_examples=50, deadline=None)
@given(MANIFESTS)
def test_completing_an_object_twice_changes_nothing(manifest: dict[str, Any]) -> None:
    key, once, _ = objects.complete(plain.Manifest(value=manifest, where="f"), namespace="shop", scopes={})
    again_key, twice, warnings = objects.complete(plain.Manifest(value=once, where="f"), namespace="other", scopes={})
    assert (again_key, twice, warnings) == (key, once, ())


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_escaping_every_variable_gives_the_text_back(value: Any) -> None:
    def escaped(part: Any) -> Any:
        if isinstance(part, str):
            return part.replace("$", "").replace("{", "${") if "{" in part else part
        if isinstance(part, dict):
            return {key: escaped(child) for key, child in part.items()}
        return [escaped(child) for child in part] if isinstance(part, list) else part

    def doubled(part: Any) -> Any:
        """Only references, and forms of them, have an escape: any other `${` is a script's and stays."""
        if isinstance(part, str):
            return variables._REFERENCE.sub(lambda found: "$" + found[0], part)
        if isinstance(part, dict):
            return {doubled(key): doubled(child) for key, child in part.items()}
        return [doubled(child) for child in part] if isinstance(part, list) else part

    obj = {"kind": "X", "spec": escaped(value)}
    assert variables.substitute(doubled(obj), {}, what="X")[0] == obj


FILES = st.dictionaries(
    st.lists(st.sampled_from(["a", "a.b", "a-b", "ä", "B", "0", "b c"]), min_size=1, max_size=3).map("/".join),
    st.tuples(st.binary(max_size=20), st.booleans()),
    max_size=8,
)


@settings(max_examples=12, deadline=None)
@given(FILES)
def test_a_folder_has_the_tree_id_that_git_gives_it(files: dict[str, tuple[bytes, bool]]) -> None:
    paths = {path for path in files if not any(other.startswith(f"{path}/") for other in files)}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        repo = pygit2.init_repository(name)
        for path in paths:
            data, executable = files[path]
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
            (root / path).chmod(0o755 if executable else 0o644)
        subprocess.run(["git", "add", "--all", "--force"], cwd=root, check=True)
        written = subprocess.run(["git", "write-tree"], cwd=root, check=True, capture_output=True, text=True).stdout
        assert sources.FolderTree(root).tree_id("") == written.strip()
        assert repo.get(written.strip()) is not None

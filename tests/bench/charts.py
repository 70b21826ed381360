"""Helm renders a second: in process, as a worker does it, and by a `helm` on PATH, where there is one."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from hub.render import helm
from tests.bench import processes

CHART: Final = "apiVersion: v2\nname: web\nversion: 1.0.0\n"
TEMPLATE: Final = """apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ .Release.Name }}-{{ .Values.name }}-%d
data:
  region: {{ .Values.region | quote }}
  {{- range $key, $value := .Values.words }}
  {{ $key }}: {{ $value | quote }}
  {{- end }}
"""
OBJECTS: Final = 30
SECONDS: Final = 3.0


def measure() -> list[dict[str, Any]]:
    """A chart of 30 objects, each time with other values."""
    with tempfile.TemporaryDirectory(prefix="flotilla-bench-") as folder:
        root = Path(folder)
        (root / "templates").mkdir()
        (root / "Chart.yaml").write_text(CHART)
        (root / "values.yaml").write_text("name: web\nwords: {one: a, two: b, three: c}\n")
        for number in range(OBJECTS):
            (root / f"templates/{number:02d}.yaml").write_text(TEMPLATE % number)
        rows = [_row("in process", partial(_in_process, root))]
        if shutil.which("helm"):
            rows.append(_row("by command", partial(_by_command, root)))
        return rows


def _row(how: str, render: Callable[[int], object]) -> dict[str, Any]:
    render(0)
    started, used, done = time.monotonic(), processes.cpu_s(os.getpid()), 0
    while time.monotonic() - started < SECONDS:
        done += 1
        render(done)
    value = round(done / (time.monotonic() - started), 1)
    cpu_ms = round((processes.cpu_s(os.getpid()) - used) / done * 1e3, 1)
    what = f"Helm chart of {OBJECTS} objects, {how}"
    return {"what": what, "value": value, "unit": "renders/s", "detail": {"processor_ms_each": cpu_ms}}


def _in_process(root: Path, number: int) -> None:
    """With everything around it: the chart is read, and its output is parsed."""
    manifests, _ = helm.load(
        root, "", at="web", release="r", namespace="n", values={"region": f"r-{number}"}, kubernetes="1.36"
    )
    assert len(manifests) == OBJECTS


def _by_command(root: Path, number: int) -> None:
    """As the hub does where `helm_python` is missing, its output parsed too."""
    made = helm._by_command(
        root, name="web", release="r", namespace="n", values={"region": f"r-{number}"}, version="v1.36.0"
    )
    manifests, _ = helm._manifests(made)
    assert len(manifests) == OBJECTS

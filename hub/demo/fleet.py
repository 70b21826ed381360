"""The demo's fleet repo: a copy of the sample, and what Dana commits to it. Next: `world` starts what follows it.

A version that is broken somewhere stays so until the next one.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio

from proto.errors import Permanent

SAMPLE = Path(__file__).parents[2] / "deploy/demo"
FREEZE = "stocktaking"

_TAG = re.compile(r'newTag: "(\d+)\.(\d+)[^"]*"')
_FLEET = "fleet.yaml"
_BUNDLE = "bundles/shop/bundle.yaml"
_KUSTOMIZATION = "bundles/shop/base/kustomization.yaml"
_WEB = "bundles/shop/base/web.yaml"
_HELLO = "bundles/hello/hello.yaml"
_BROKEN = """\
patches:
  - target: {kind: Deployment}
    patch: |-
      - {op: add, path: /spec/template/spec/nodeSelector, value: {example.org/disk: none}}
"""
"""A node that no cluster has; the image does not exist either, but not every cluster pulls images."""
_UNFIT = """\
    - when: {matchLabels: {region: REGION}, matchExpressions: [{key: canary, operator: DoesNotExist}]}
      patches:
        - target: {kind: Deployment, name: web}
          patch:
            - {op: add, path: /spec/template/spec/nodeSelector, value: {example.org/disk: none}}
"""
"""The same, but in one region alone, and not in the canary."""
_SOMEWHERE = re.compile(re.escape(_UNFIT).replace("REGION", r"\w+") + r"\Z")
_FREEZES = f"""\
  freezes:
    - {{name: {FREEZE}, from: "2020-01-01T00:00", to: "2120-01-01T00:00", zone: UTC, reason: the shops count}}
"""
_REAL_IMAGE = "nginx"
"""What real clusters run: public, and it has the tags 1.20 to 1.29."""
_FIRST_TAG, _LAST_TAG = 20, 29
_REAL_PROGRESS_S = 20
"""A real cluster pulls images."""


class Repo:
    """The fleet repo: a copy of the sample, edited with git."""

    def __init__(self, path: Path, *, real: bool = False) -> None:
        """`real` clusters pull images, so theirs must exist."""
        self.path = path
        self._real = real

    async def create(self, sample: Path, clusters: str | None) -> None:
        """Begin with the sample's files, and `clusters` instead of its own Cluster files."""
        try:
            shutil.copytree(sample, self.path)
        except OSError as error:
            raise Permanent(
                "sample fleet repo", f"cannot be copied: {error}", "run the demo from a checkout"
            ) from error
        if clusters is not None:
            (self.path / "clusters/clusters.yaml").write_text(clusters)
        if self._real:
            self._suit_real_clusters()
        await self._git("init", "-q", "-b", "main")
        await self._commit("The fleet as it begins")

    async def release(self) -> tuple[str, str]:
        """Commit the shop's next version; (revision, version)."""
        version = self._set_tag("")
        return await self._commit(f"Shop {version}"), version

    async def break_(self) -> str:
        """Commit a shop that cannot start in any cluster; the revision."""
        version = self._set_tag("-broken", below=_BROKEN)
        return await self._commit(f"Shop {version}")

    async def unfit(self, region: str) -> tuple[str, str]:
        """Commit a shop that cannot start in one region, though it can in the canary; (revision, version)."""
        version = self._set_tag("")
        bundle = self.path / _BUNDLE
        bundle.write_text(bundle.read_text() + _UNFIT.replace("REGION", region))
        return await self._commit(f"Shop {version}"), version

    async def freeze(self) -> None:
        """Commit that nothing may start."""
        file = self.path / _FLEET
        file.write_text(file.read_text() + _FREEZES)
        await self._commit(f"Freeze: {FREEZE}")

    async def thaw(self) -> bool:
        """Commit that everything may go on; False when nothing is frozen."""
        file = self.path / _FLEET
        text = file.read_text()
        if not text.endswith(_FREEZES):
            return False
        file.write_text(text.removesuffix(_FREEZES))
        await self._commit(f"{FREEZE.capitalize()} is over")
        return True

    def _set_tag(self, suffix: str, below: str = "") -> str:
        """Write the next version of the shop's image, and `below` instead of what an earlier break added."""
        bundle = self.path / _BUNDLE
        bundle.write_text(_SOMEWHERE.sub("", bundle.read_text()))
        file = self.path / _KUSTOMIZATION
        text = file.read_text().removesuffix(_BROKEN)
        found = _TAG.search(text)
        major, minor = (int(found[1]), int(found[2]) + 1) if found else (1, 1)
        if self._real and minor > _LAST_TAG:
            minor = _FIRST_TAG
        version = f"{major}.{minor}{suffix}"
        file.write_text(_TAG.sub(f'newTag: "{version}"', text) + below)
        return version

    def _suit_real_clusters(self) -> None:
        """Images that exist, and time to pull them."""
        for name, old, new in (
            (_KUSTOMIZATION, 'newTag: "1.0"', f'newName: {_REAL_IMAGE}\n    newTag: "1.{_FIRST_TAG}"'),
            (_WEB, "progressDeadlineSeconds: 4", f"progressDeadlineSeconds: {_REAL_PROGRESS_S}"),
            (_HELLO, "registry.example.org/hello:1.0", f"{_REAL_IMAGE}:1.{_LAST_TAG}"),
        ):
            file = self.path / name
            file.write_text(file.read_text().replace(old, new))

    async def _commit(self, message: str) -> str:
        await self._git("add", "-A")
        await self._git("commit", "-q", "--allow-empty", "-m", message)
        return await self._git("rev-parse", "HEAD")

    async def _git(self, *arguments: str) -> str:
        # Nobody's own settings (hooks, signing, templates) take part.
        done = await anyio.run_process(
            ["git", "-c", "user.name=Dana", "-c", "user.email=dana@example.org", *arguments],
            cwd=self.path,
            env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
        )
        return done.stdout.decode().strip()


def cluster_names(count: int) -> list[str]:
    """Pure: a canary, and the others in turn in two regions; six are the sample's own."""
    if count == 6:
        return ["canary", "eu-1", "eu-2", "us-1", "us-2", "us-3"]
    return ["canary", *sorted(f"{('us', 'eu')[n % 2]}-{n // 2 + 1:0{len(str(count // 2))}}" for n in range(count - 1))]


def cluster_files(names: Sequence[str]) -> str | None:
    """Pure: Cluster files for `names`; None when the sample has them."""
    if list(names) == cluster_names(6):
        return None
    return _cluster_documents({name: "us" if name.startswith("us") else "eu" for name in names})


def real_cluster_files(names: Sequence[str]) -> str:
    """Pure: Cluster files for real clusters, whose names say nothing: the others are in turn in eu and us."""
    return _cluster_documents({name: "us" if n and n % 2 == 0 else "eu" for n, name in enumerate(names)})


def _cluster_documents(regions: Mapping[str, str]) -> str:
    """Pure: Cluster files from name → region; the first is the canary."""
    documents = []
    for number, (name, region) in enumerate(regions.items()):
        labels = {"tier": "prod", "region": region, **({} if number else {"canary": "true"})}
        body = {
            "apiVersion": "flotilla.dev/v1alpha1",
            "kind": "Cluster",
            "metadata": {"name": name, "labels": labels},
            "spec": {"variables": {"domain": f"{name}.example.org", "replicas": 2}},
        }
        documents.append(json.dumps(body, indent=2))
    return "\n---\n".join(documents) + "\n"

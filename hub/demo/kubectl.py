"""Real clusters for the demo, reached through kubectl with the user's own credentials.

`read` finds the contexts of a kubeconfig; `plan` and `remains` (pure) say what the demo will do there, and how to
undo it; `RealCluster` is to `story` what a simulated cluster is. Next: `run`.
"""

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import anyio

from hub.kubectl import executable
from proto.errors import InvalidInput, Permanent

NAMESPACES = ("shop", "hello", "flotilla-system")
"""Those of the sample's bundles, and the agent's own for its Lease and its records."""
DEFINITION = "appliedbundles.flotilla.dev"
"""The CustomResourceDefinition that agents install."""
LONGEST_NAME = 40
"""Of a cluster; a label may have 63 characters, and a name also becomes part of a branch and of host names."""
CALL_S = 20.0
_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<plural>[^/]+)/(?P<name>[^/]+)(?:/(?P<subresource>[^/]+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One context of a kubeconfig; `cluster` is what the fleet calls it."""

    kubeconfig: Path
    context: str
    cluster: str
    server: str


class RealCluster:
    """A cluster that was there before the demo and stays: what somebody with kubectl does in it."""

    def __init__(self, target: Target, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.name = target.cluster
        self.agent_arguments = (f"--kubeconfig={target.kubeconfig}", f"--context={target.context}")
        self._target = target

    async def start(self) -> None:
        """It runs already."""

    async def stop(self) -> None:
        """It stays as it is."""

    async def get(self, path: str) -> Any:
        """The object at a path; None when there is none."""
        return await self._json("get", "--raw", path)

    async def patch(self, path: str, patch: object, *, manager: str) -> Any:
        """Merge something into an object, as `kubectl edit` does; a list is a JSON patch."""
        kind = "merge" if isinstance(patch, dict) else "json"
        return await self._json(
            "patch", *resource(path), f"--type={kind}", f"--patch={json.dumps(patch)}", f"--field-manager={manager}"
        )

    async def delete(self, path: str) -> None:
        await self._run("delete", "--raw", path)

    async def _json(self, verb: str, *arguments: str) -> Any:
        said = await self._run(verb, *arguments, *([] if "--raw" in arguments else ["--output=json"]))
        return None if said is None else json.loads(said)

    async def _run(self, *arguments: str) -> bytes | None:
        """What kubectl says; None when the object is not there."""
        done = await anyio.run_process(
            [*_command(self._target), *arguments],
            check=False,
        )
        if done.returncode == 0:
            return done.stdout
        error = done.stderr.decode(errors="replace").strip()
        if "(NotFound)" in error:
            return None
        raise Permanent(f"{self.name}: kubectl {arguments[0]}", f"failed: {error}")


def read(kubeconfig: Path, contexts: Sequence[str]) -> tuple[Target, ...]:
    """The contexts asked for, in this order. Raises InvalidInput when the file or a context is not there."""
    done = subprocess.run(
        [executable(), f"--kubeconfig={kubeconfig}", "config", "view", "--output=json"], capture_output=True
    )
    if done.returncode:
        error = done.stderr.decode(errors="replace").strip()
        raise InvalidInput(f"--kubeconfig {kubeconfig}", f"cannot be read: {error}")
    return targets(json.loads(done.stdout), kubeconfig, contexts=contexts)


def check_untouched(wanted: Sequence[Target]) -> None:
    """Each cluster must answer, and have none of what the demo will make: that is somebody's own. Raises Permanent."""
    for target in wanted:
        # All names at once, also when only some are there.
        done = subprocess.run(
            [*_command(target), "get", "namespaces", *NAMESPACES, "--ignore-not-found", "--output=name"],
            capture_output=True,
        )
        if done.returncode:
            error = done.stderr.decode(errors="replace").strip()
            raise Permanent(f"context {target.context}", f"cannot be used: {error}")
        if found := done.stdout.decode().split():
            raise InvalidInput(
                f"context {target.context}",
                f"has {' and '.join(found)} already, and the demo would write there",
                "choose another cluster, or remove what an earlier demo left, with the commands it ended with",
            )


def targets(config: Mapping[str, Any], kubeconfig: Path, *, contexts: Sequence[str]) -> tuple[Target, ...]:
    """Pure: the contexts asked for. Raises InvalidInput for one that is not there, and for one server twice."""
    servers = {row["name"]: str(row["cluster"].get("server", "")) for row in config.get("clusters") or ()}
    known = {row["name"]: servers.get(row["context"].get("cluster"), "") for row in config.get("contexts") or ()}
    found: dict[str, str] = {}
    for context in contexts:
        server = known.get(context, "")
        if not server:
            raise InvalidInput(
                f"--context {context}",
                f"is not in {kubeconfig}, or has no server",
                f"there are: {', '.join(sorted(known)) or 'none'}",
            )
        if server in found:
            raise InvalidInput(
                f"--context {context}",
                f"is the same cluster as {found[server]}: {server}",
                "name each cluster once",
            )
        found[server] = context
    return tuple(
        Target(kubeconfig=kubeconfig, context=context, cluster=name, server=known[context])
        for context, name in zip(contexts, names(contexts), strict=True)
    )


def names(contexts: Iterable[str]) -> list[str]:
    """Pure: a cluster name for each context: a DNS label like it, and each another."""
    made: list[str] = []
    for context in contexts:
        label = re.sub(r"[^a-z0-9]+", "-", context.lower())[-LONGEST_NAME:].strip("-") or "cluster"
        name, number = label, 1
        while name in made:
            number += 1
            name = f"{label}-{number}"
        made.append(name)
    return made


def resource(path: str) -> list[str]:
    """Pure: an API path of a namespaced object as kubectl's arguments. Raises ValueError for any other path."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise ValueError(path)
    kind = f"{found['plural']}.{found['version']}.{found['group']}" if found["group"] else found["plural"]
    below = [f"--subresource={found['subresource']}"] if found["subresource"] else []
    return [kind, found["name"], f"--namespace={found['namespace']}", *below]


def plan(wanted: Sequence[Target]) -> str:
    """Pure: what the demo will do, for whoever has to agree."""
    clusters = "\n".join(f"  {target.context}  {target.server}  (as {target.cluster})" for target in wanted)
    return f"""\
The demo will write to {len(wanted)} real clusters:
{clusters}
with the credentials that {wanted[0].kubeconfig} has for them:
  - An agent for each, on this machine, creates the namespaces {", ".join(NAMESPACES)} with Deployments, a
    Service and ConfigMaps, and the CustomResourceDefinition {DEFINITION}. A cluster that has
    one of these namespaces already is refused.
  - The story, or a key you press, edits, scales and deletes objects in the namespace shop, with kubectl.
  - The Deployments run nginx, up to 9 pods each.
When the demo ends, all that stays in the clusters; it then prints the commands that remove it."""


def remains(wanted: Sequence[Target]) -> str:
    """Pure: the commands that remove what the demo leaves."""
    lines = ["What the demo made is still in the clusters; these commands remove it:"]
    for target in wanted:
        kubectl = f"kubectl --kubeconfig {quote(str(target.kubeconfig))} --context {quote(target.context)}"
        lines += [f"  {kubectl} delete --ignore-not-found namespace {' '.join(NAMESPACES)}"]
        lines += [f"  {kubectl} delete --ignore-not-found customresourcedefinition {DEFINITION}"]
    return "\n".join(lines)


def _command(target: Target) -> list[str]:
    return [
        executable(),
        f"--kubeconfig={target.kubeconfig}",
        f"--context={target.context}",
        f"--request-timeout={CALL_S:.0f}s",
    ]

"""What is to be rendered, and what a render said.

Nothing here decides anything. `repo.targets` makes the one, `render` the other, `journal` keeps it. What the fleet repo
says stands in `model`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hub.model import Bundle
from proto.ids import ClusterName, Oid


class RenderRequest(NamedTuple):
    """One bundle with one distinct set of inputs, for all `clusters` that share it.

    `inputs` holds all that the result depends on beside the bundle's folder, as a JSON value: source path, namespace,
    kustomize path, helm options, variables, Kubernetes version where Helm needs it, and the agent's policy. `key` is a
    hash of it, of the folder's Git tree id and of the renderer's version: equal keys give equal subtrees.

    A tuple, and inputs in two parts, those that many requests of the bundle have in common and its own: there are
    hundreds of thousands of them, which come out of another process [m].
    """

    bundle: Bundle
    clusters: tuple[ClusterName, ...]
    folder_tree: Oid
    key: str
    shared: Mapping[str, Any]
    own: Mapping[str, Any]

    @property
    def inputs(self) -> Mapping[str, Any]:
        return {**self.shared, **self.own}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What a render said beside its files. `warnings`: policy (a field of `Checks`, "" for what is always told) →
    texts, whatever the policy says at the moment. `defines`: kind (`Thing.example.org`) → blob id of its definition;
    `uses`: the custom kinds that it has objects of and no definition."""

    warnings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defines: Mapping[str, Oid] = field(default_factory=dict)
    uses: tuple[str, ...] = ()

    def told(self, words: Mapping[str, str]) -> tuple[str, ...]:
        """Pure: the warnings that the policies `words` let through."""
        silent = {what for what, word in words.items() if word in ("allow", "off")}
        return tuple(text for what, texts in self.warnings.items() if what not in silent for text in texts)

"""A write on its way to the store, as admission sees it. Next: `writes` asks `admission` and `policies`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hub.sim.kinds import Kind
from hub.sim.store import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A write, as admission sees it. `object` is None for a deletion; `old` is None for a creation."""

    operation: Literal["CREATE", "UPDATE", "DELETE"]
    kind: Kind
    key: Key
    object: dict[str, Any] | None
    old: Mapping[str, Any] | None
    subresource: str
    user: str
    dry_run: bool


Admission = Callable[[Review], dict[str, Any] | None]
"""Returns the object as it shall be, None to leave it as it is; raises ApiError."""

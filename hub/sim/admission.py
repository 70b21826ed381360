"""Admission on anyone's write: functions that deny or change, and quota. Append them to `Api.admission`.

They see every write after ownership is decided, the controllers' too, as webhooks do; what they change is nobody's.
Any function of a `Review` will do; those here are what tests want again and again.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from hub.sim import normal, status
from hub.sim.api import Api
from hub.sim.review import Review
from hub.sim.status import ApiError

Matches = Callable[[Review], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which writes a hook is about; empty fields match all. Deletions only when they are named."""

    kinds: Collection[str] = ()
    namespaces: Collection[str] = ()
    names: Collection[str] = ()
    operations: Collection[str] = ("CREATE", "UPDATE")
    subresources: Collection[str] = ("",)
    users: Collection[str] = ()

    def __call__(self, review: Review) -> bool:
        namespace, name = review.key
        return (
            review.operation in self.operations
            and review.subresource in self.subresources
            and all(
                not wanted or there in wanted
                for wanted, there in (
                    (self.kinds, review.kind.info.kind),
                    (self.namespaces, namespace),
                    (self.names, name),
                    (self.users, review.user),
                )
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial:
    """A validating webhook that says no: 400 with its words, unless it names another code."""

    message: str
    matches: Matches = field(default_factory=Scope)
    webhook: str = "deny.example.org"
    code: int = 400

    def __call__(self, review: Review) -> None:
        if self.matches(review):
            text = f'admission webhook "{self.webhook}" denied the request: {self.message}'
            raise ApiError(self.code, text, reason="" if self.code != 400 else "BadRequest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A mutating webhook: `change` gets the object and returns what shall be stored."""

    change: Callable[[dict[str, Any]], dict[str, Any]]
    matches: Matches = field(default_factory=Scope)

    def __call__(self, review: Review) -> dict[str, Any] | None:
        if review.object is None or not self.matches(review):
            return None
        return self.change(review.object)


class Quota:
    """Enforces ResourceQuotas: counts of objects, and what Pods request; used is what is there, so nothing drifts."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def __call__(self, review: Review) -> None:
        if review.operation != "CREATE" or review.object is None or not review.key[0]:
            return
        asked = usage(review.kind.info.group, review.kind.info.plural, review.object)
        for key, record in self._api.store.items(("", "resourcequotas"), review.key[0]):
            hard = (record.read().get("spec") or {}).get("hard") or {}
            counted = {name: asked[name] for name in sorted(asked.keys() & hard.keys())}
            used = self._used(review, counted) if counted else {}
            over = [name for name, much in counted.items() if used[name] + much > normal.amount(hard[name])]
            if over:
                told = ", ".join(
                    f"{what}: {','.join(f'{name}={values[name]}' for name in over)}"
                    for what, values in (("requested", _shown(counted)), ("used", _shown(used)), ("limited", hard))
                )
                group, plural = review.kind.table
                name = review.object["metadata"].get("name", "")
                raise status.forbidden(group, plural, name, f"exceeded quota: {key[1]}, {told}")

    def _used(self, review: Review, counted: Mapping[str, Decimal]) -> dict[str, Decimal]:
        used = dict.fromkeys(counted, Decimal(0))
        for _, record in self._api.store.items(review.kind.table, review.key[0]):
            for name, much in usage(review.kind.info.group, review.kind.info.plural, record.read()).items():
                if name in used:
                    used[name] += much
        return used


def usage(group: str, plural: str, obj: Mapping[str, Any]) -> dict[str, Decimal]:
    """Pure: what an object takes of a quota, by the names that quotas use."""
    taken = {f"count/{plural}.{group}" if group else f"count/{plural}": Decimal(1)}
    if group:
        return taken
    taken[plural] = Decimal(1)
    if plural == "pods":
        for container in (obj.get("spec") or {}).get("containers") or ():
            for section in ("requests", "limits"):
                for resource, much in ((container.get("resources") or {}).get(section) or {}).items():
                    name = f"{section}.{resource}"
                    taken[name] = taken.get(name, Decimal(0)) + normal.amount(much)
    return taken


def _shown(amounts: Mapping[str, Decimal]) -> dict[str, str]:
    return {name: str(normal.quantity(str(much))) for name, much in amounts.items()}

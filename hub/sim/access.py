"""Who sends a request to the simulated API server, and whether they may do what they ask.

    a request with                 is by
    no token                       the anonymous user, if there is one, else refused (401)
    a bearer token                 its user; refused (401) if nobody has it
    … and Impersonate-User         that user, if the token's user may act as them; a service account with its groups

`authorize` says why an access is refused, None when it is not; without one everybody may do everything. Next: `rbac` is
one that reads Roles, `server` asks here before each request.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from hub.sim import status
from hub.sim.status import ApiError

ACCOUNTS: Final = "system:serviceaccount:"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who sends a request."""

    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a request wants to do, as authorization sees it; `path` for what is no resource."""

    user: User
    verb: str
    group: str = ""
    plural: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""


Authorize = Callable[[Access], str | None]
"""Why an access is refused; None when it is not."""


def service_account(namespace: str, name: str) -> User:
    """Pure: the user that a ServiceAccount's token stands for."""
    return User(
        name=f"{ACCOUNTS}{namespace}:{name}",
        groups=("system:serviceaccounts", f"system:serviceaccounts:{namespace}"),
    )


def user_of(
    request: web.BaseRequest,
    *,
    tokens: Mapping[str, User],
    anonymous: User | None,
    authorize: Authorize | None,
) -> User:
    """By the module's table."""
    sent = request.headers.get("Authorization")
    scheme, _, token = (sent or "").partition(" ")
    user = tokens.get(token.strip()) if scheme.lower() == "bearer" else None
    user = anonymous if sent is None else user
    if user is None:
        raise ApiError(401, "Unauthorized")
    acts_as = request.headers.get("Impersonate-User")
    if acts_as is None:
        return user
    return _impersonated(user, acts_as, tuple(request.headers.getall("Impersonate-Group", ())), authorize)


def _impersonated(user: User, name: str, groups: tuple[str, ...], authorize: Authorize | None) -> User:
    wanted = [Access(user=user, verb="impersonate", plural="groups", name=group) for group in groups]
    if name.startswith(ACCOUNTS) and name.count(":") == 3:
        namespace, account = name.removeprefix(ACCOUNTS).split(":")
        acting = service_account(namespace, account)
        wanted.append(
            Access(user=user, verb="impersonate", plural="serviceaccounts", namespace=namespace, name=account)
        )
    else:
        acting = User(name=name)
        wanted.append(Access(user=user, verb="impersonate", plural="users", name=name))
    for access in wanted:
        check(authorize, access)
    return User(name=name, groups=groups or acting.groups)


def check(authorize: Authorize | None, access: Access) -> None:
    """Refuse an access that `authorize` does not allow, in the real server's words."""
    why = authorize(access) if authorize is not None else None
    if why is None:
        return
    resource = f"{access.plural}/{access.subresource}" if access.subresource else access.plural
    where = f' in the namespace "{access.namespace}"' if access.namespace else " at the cluster scope"
    cause = f'User "{access.user.name}" cannot {access.verb} resource "{resource}" in API group "{access.group}"{where}'
    cause = f"{cause}: {why}" if why else cause
    raise status.forbidden(access.group, access.plural, access.name, cause)

"""Credentials of sources outside the fleet repo: what the hub's owner has, which a bundle names and never sees.

They are a YAML file, or a folder of such files (a mounted Kubernetes Secret), from names to logins:

    team-a-git:
      for: [https://git.example.org/team-a]    # the only addresses that ever get it, and what is below them
      tenants: [team-a]                        # whose bundles may name it; without it all
      username: bot
      password: …                              # or token: …
      caFile: ca.crt                           # beside this file: whom to believe there, instead of the system's
    team-a-deploy-key:
      for: [ssh://git@git.example.org/team-a]
      sshKeyFile: deploy.key                   # a private key without a passphrase
      knownHostsFile: known_hosts              # as ssh-keyscan prints it; no other host is believed
    on-call:
      for: [https://hooks.example.org/flotilla]
      webhookSecret: whsec_…                   # signs what `spec.notify` sends there; two while one is being renewed

Who writes a bundle chooses its address: a login without `for` would go to a host of theirs. The file is also the
owner's word on what is refused otherwise: `http://` beyond this machine, and `file://`, are fetched only below an
address that a named credential is for. It is read anew for each fetch, so that a renewed Secret counts at once; values
are in no message. Next: `fetch` takes the login that a source names.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hub.model import Finding
from hub.repo import addresses, yaml_reader
from hub.repo.schema import Section, nearest
from proto import ids
from proto.errors import InvalidInput

_FIELDS = (
    *("for", "tenants", "username", "password", "token", "caFile", "sshKeyFile", "knownHostsFile", "plainHttp"),
    "webhookSecret",
)
_SECRET = ("username", "password", "token", "webhookSecret")
_MAX_BYTES = 1 << 20
_WEBHOOK_KEY_BYTES = range(24, 65)
"""As Standard Webhooks has it: 192 to 512 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """How a source is reached. `username` and `password` are HTTP's basic ones, `token` a bearer token; `ca` holds the
    certificates that are believed; `ssh_key` and `known_hosts` go together; `plain_http`: an `oci://` registry is
    spoken to without TLS; messages are signed with each of `webhook_keys`. `addresses` are all that any of it may be
    sent to: ask `is_for` about each other address that a server names."""

    addresses: tuple[str, ...] = ()
    tenants: tuple[str, ...] | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca: Path | None = None
    ssh_key: Path | None = None
    known_hosts: Path | None = None
    plain_http: bool = False
    webhook_keys: tuple[bytes, ...] = field(default=(), repr=False)

    def is_for(self, address: str) -> bool:
        """Whether it may be sent to `address`."""
        try:
            one = addresses.normal(address, schemes=addresses.SCHEMES)
        except InvalidInput:
            return False
        return any(addresses.within(one, prefix) for prefix in self.addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """All logins, by name."""

    logins: Mapping[str, Login] = field(default_factory=dict)

    def login(self, name: str, address: str, *, tenant: str = "") -> Login | None:
        """The login `name` for `address`, None when none is named.

        Raises InvalidInput when the hub has none of the name, or not for this address or tenant."""
        found = self.named(name, tenant=tenant)
        if found is not None and not found.is_for(address):
            remedy = "add the address to their 'for', in the file of --source-credentials"
            raise InvalidInput(f"credentials {name!r}", f"are not for {address}", remedy)
        return found

    def named(self, name: str, *, tenant: str = "") -> Login | None:
        """The login `name`, whatever it is for: ask `is_for` about each address. Raises as `login`."""
        if not name:
            return None
        found = self.logins.get(name)
        thing = f"credentials {name!r}"
        if found is None or (found.tenants is not None and tenant not in found.tenants):
            known = [other for other, login in self.logins.items() if login.tenants is None or tenant in login.tenants]
            missing = nearest(name, known, else_="add them to the file of --source-credentials")
            raise InvalidInput(thing, "are not among those that may be used here", missing)
        return found


NONE = Credentials()


def load(path: Path | None) -> Credentials:
    """The credentials of a file or a folder of `.yaml`, `.yml` and `.json` files; none without a path.

    Raises InvalidInput, without any value, for a file that cannot be read or is not as it has to be.
    """
    if path is None:
        return NONE
    logins: dict[str, Login] = {}
    for file in _files(path):
        for name, login in _read(file):
            if name in logins:
                raise InvalidInput(f"credentials {name!r}", f"stand in {file.name} and in another file", "keep one")
            logins[name] = login
    return Credentials(logins=logins)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.iterdir() if one.suffix in (".yaml", ".yml", ".json") and one.name[0] != ".")
    if not found:
        raise InvalidInput(f"folder {path}", "has no .yaml or .json file of credentials", "check what is mounted there")
    return found


def _read(path: Path) -> Iterator[tuple[str, Login]]:
    thing = f"credentials file {path}"
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(thing, f"cannot be read: {error.strerror}", "check --source-credentials") from error
    if len(text) > _MAX_BYTES:
        raise InvalidInput(thing, f"has more than {_MAX_BYTES} bytes", "check --source-credentials")
    try:
        documents = yaml_reader.documents(text, where=thing)
    except InvalidInput as error:  # its cause may quote what stands there
        raise InvalidInput(error.thing, "is not valid YAML, or has a key twice") from None
    findings: list[Finding] = []
    for document in documents:
        names = [str(name) for name in document.value] if isinstance(document.value, Mapping) else ()
        root = Section(document, findings, value=document.value, fields=names)
        for name in names:
            try:
                ids.check_name("credentials", name)
            except InvalidInput as error:
                root.problem(error.cause, name, remedy=error.remedy)
            stated = document.value[name]
            shown = [one for one in _SECRET if isinstance(stated, Mapping) and not isinstance(stated.get(one, ""), str)]
            if shown:  # a Section would show a number
                root.problem("is not a string", name, shown[0], remedy="put it in quotes")
                continue
            yield name, _login(root.section(name, _FIELDS), path.parent)
    if findings:
        first = findings[0]
        raise InvalidInput(first.where, first.message, first.remedy)


def _login(section: Section, folder: Path) -> Login:
    prefixes: list[str] = []
    for index, text in enumerate(section.texts("for")):
        try:
            prefixes.append(addresses.normal(text, schemes=addresses.SCHEMES))
        except InvalidInput as error:
            section.problem(error.cause, "for", index, remedy=error.remedy)
    if not section.texts("for"):
        section.problem("is missing", "for", remedy="list the addresses that may get these credentials")
    login = Login(
        addresses=tuple(prefixes),
        tenants=section.texts("tenants") if section.states("tenants") else None,
        username=section.text("username"),
        password=section.text("password"),
        token=section.text("token"),
        ca=_file(section, "caFile", folder),
        ssh_key=_file(section, "sshKeyFile", folder),
        known_hosts=_file(section, "knownHostsFile", folder),
        plain_http=section.flag("plainHttp", default=False),
        webhook_keys=tuple(_webhook_keys(section)),
    )
    if login.token and (login.username or login.password):
        section.problem("goes with neither username nor password", "token", remedy="keep one of the two ways")
    if bool(login.username) != bool(login.password):
        section.problem("has to come with the other of username and password", remedy="write both")
    if (login.ssh_key is None) != (login.known_hosts is None):
        section.problem(
            "needs both sshKeyFile and knownHostsFile", remedy="write the host's keys too: ssh-keyscan HOST"
        )
    return login


def _webhook_keys(section: Section) -> Iterator[bytes]:
    """The keys of `webhookSecret`, in the form of Standard Webhooks, with spaces between them."""
    for text in section.text("webhookSecret").split():
        prefix, _, encoded = text.partition("_")
        try:
            key = base64.b64decode(encoded, validate=True) if prefix == "whsec" else b""
        except ValueError:
            key = b""
        if len(key) not in _WEBHOOK_KEY_BYTES:
            cause = "is not whsec_ and 24 to 64 bytes in base64"
            section.problem(cause, "webhookSecret", remedy="make one: echo whsec_$(openssl rand -base64 32)")
            return
        yield key


def _file(section: Section, name: str, folder: Path) -> Path | None:
    if not section.has(name):
        return None
    path = folder / section.text(name)
    if not path.is_file():
        section.problem("is not a file", name, remedy="write its path from the folder of this file")
    return path

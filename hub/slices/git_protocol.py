"""Git's upload-pack as text: what a client asks, what it is told, and nothing that touches a repository.

Two versions of one conversation over HTTP, where every request stands for itself:

    v0   GET info/refs → refs and capabilities;   POST wants, haves → ACK/NAK, and the pack once the client said "done"
    v2   GET info/refs → capabilities;   POST ls-refs → refs;   POST fetch → ACKs, and the pack once enough is known

One ref per client, so a single common commit settles a negotiation. Histories may be cut by `deepen`; a client that has
a cut one says so (`shallow`). Not offered, and refused when asked for all the same: cuts by time or name, filters,
wants by ref name. Formats: gitprotocol-pack(5), gitprotocol-v2(5), gitprotocol-http(5).
Next module: `git_http`, which decides who may have what.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from hub.slices.shallow import Cut
from proto.errors import ProtocolError, Refused
from proto.ids import Oid, is_oid

FLUSH = b"0000"
_DELIMITER = b"0001"
_MAX_PACKET = 65520
"""Of a pkt-line with its four digits of length."""
_HEX = frozenset(b"0123456789abcdefABCDEF")
_AGENT = "agent=flotilla"
_RELATIVE = "deepen-relative"
_V0_CAPABILITIES = (
    f"multi_ack_detailed side-band-64k shallow {_RELATIVE} no-progress allow-reachable-sha1-in-want "
    f"object-format=sha1 {_AGENT}"
)
_V2_ADVERTISEMENT = ("version 2", _AGENT, "ls-refs=unborn", "fetch=shallow", "object-format=sha1")
_V2_IGNORED = frozenset({"thin-pack", "no-progress", "include-tag", "ofs-delta"})
"""Arguments of a v2 fetch that every server has to accept, and that change nothing in a pack of whole objects."""


class Mark(Enum):
    """The packets that carry nothing but their place."""

    FLUSH = FLUSH
    DELIMITER = _DELIMITER


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRefs:
    """v2 `ls-refs`. An empty `prefixes` asks for all."""

    prefixes: tuple[str, ...] = ()
    symrefs: bool = False
    unborn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """A fetch of either version. `done`: the client has told all that it has. `depth`: of history, 0 for all of it,
    counted from those `shallow` ones when it is `relative`: commits that the client has without their parents."""

    wants: tuple[Oid, ...] = ()
    haves: tuple[Oid, ...] = ()
    shallow: tuple[Oid, ...] = ()
    depth: int = 0
    relative: bool = False
    done: bool = False
    side_band: bool = True
    detailed_acks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What comes first, and whether the pack follows it."""

    head: bytes
    pack: bool


def packet(line: str | bytes) -> bytes:
    """Pure: one pkt-line."""
    data = line.encode() if isinstance(line, str) else line
    return b"%04x" % (len(data) + 4) + data


def packets(body: bytes) -> Iterator[str | Mark]:
    """Pure: the pkt-lines of a request, without their line ends. Raises ProtocolError."""
    at = 0
    while at < len(body):
        digits = body[at : at + 4]
        if len(digits) < 4 or not _HEX.issuperset(digits):
            raise ProtocolError("Git request", f"has no packet length at byte {at}")
        length = int(digits, 16)
        if digits in (FLUSH, _DELIMITER):
            yield Mark(digits)
            at += 4
            continue
        if not 4 < length <= _MAX_PACKET or at + length > len(body):
            raise ProtocolError("Git request", f"has a packet of {length} bytes at byte {at}, which cannot be")
        try:
            yield body[at + 4 : at + length].decode().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise ProtocolError("Git request", f"has a packet at byte {at} that is not text") from error
        at += length


def error(message: str) -> bytes:
    """Pure: a whole response that makes a Git client stop and show `message`."""
    return packet(f"ERR {message}"[:1000])


# --- version 0 --------------------------------------------------------------------------------------------------------


def advertise_v0(ref: str, tip: Oid | None) -> bytes:
    """Pure: the answer to info/refs: HEAD and `ref`, both at `tip`, or no ref at all."""
    capabilities = f"{_V0_CAPABILITIES} symref=HEAD:{ref}"
    if tip is None:
        lines = packet(f"{'0' * 40} capabilities^{{}}\0{_V0_CAPABILITIES}\n")
    else:
        lines = packet(f"{tip} HEAD\0{capabilities}\n") + packet(f"{tip} {ref}\n")
    return packet("# service=git-upload-pack\n") + FLUSH + lines + FLUSH


def parse_v0(body: bytes) -> Fetch:
    """Pure: the request in a v0 POST. Raises ProtocolError."""
    wants: list[Oid] = []
    haves: list[Oid] = []
    shallow: list[Oid] = []
    depth = 0
    capabilities: frozenset[str] = frozenset()
    done = False
    for line in packets(body):
        if isinstance(line, Mark):
            if line is Mark.DELIMITER:
                raise ProtocolError("Git request", "has a delimiter, which protocol version 0 does not know")
            continue
        verb, _, rest = line.partition(" ")
        if done:
            raise ProtocolError("Git request", f"goes on after 'done' with {line[:80]!r}")
        if verb == "want" and not haves:
            name, _, asked = rest.partition(" ")
            capabilities = capabilities or frozenset(asked.split())
            wants.append(_oid(name))
        elif verb == "have" and wants:
            haves.append(_oid(rest))
        elif verb == "shallow" and wants and not haves:
            shallow.append(_oid(rest))
        elif verb == "deepen" and wants and not haves:
            depth = _depth(rest)
        elif line == "done":
            done = True
        else:
            raise _not_offered(line)
    _check_format(capabilities)
    return Fetch(
        wants=_distinct(wants),
        haves=_distinct(haves),
        shallow=_distinct(shallow),
        depth=depth,
        relative=_RELATIVE in capabilities,
        done=done,
        side_band="side-band-64k" in capabilities,
        detailed_acks="multi_ack_detailed" in capabilities,
    )


def negotiate_v0(asked: Fetch, common: Sequence[Oid], cut: Cut) -> Reply:
    """Pure: what a v0 client is told about its haves; `common` are those that we know too, in its order."""
    if not asked.wants:
        return Reply(head=b"", pack=False)
    edges = _edges(cut) + FLUSH if asked.depth else b""
    if edges and not asked.haves and not asked.done:
        return Reply(head=edges, pack=False)  # it asks for those first, and then once more with all that it has
    reply = _acknowledged_v0(asked, common)
    return Reply(head=edges + reply.head, pack=reply.pack)


def _acknowledged_v0(asked: Fetch, common: Sequence[Oid]) -> Reply:
    if not asked.detailed_acks:
        return Reply(head=packet(f"ACK {common[0]}\n" if common else "NAK\n"), pack=asked.done)
    acks = b"".join(packet(f"ACK {oid} common\n") for oid in common)
    if asked.done:
        return Reply(head=acks + packet(f"ACK {common[-1]}\n" if common else "NAK\n"), pack=True)
    ready = packet(f"ACK {common[-1]} ready\n") if common else b""
    return Reply(head=acks + ready + packet("NAK\n"), pack=False)


# --- version 2 --------------------------------------------------------------------------------------------------------


def advertise_v2() -> bytes:
    """Pure: the answer to info/refs: what version 2 offers here."""
    return b"".join(packet(f"{line}\n") for line in _V2_ADVERTISEMENT) + FLUSH


def parse_v2(body: bytes) -> ListRefs | Fetch:
    """Pure: the request in a v2 POST. Raises ProtocolError; Refused, which people see, for a want or a cut by name."""
    command = ""
    head: list[str] = []
    arguments: list[str] = []
    part, ended = head, False
    for line in packets(body):
        if ended:
            raise ProtocolError("Git request", "goes on after its end")
        if isinstance(line, str):
            part.append(line)
        elif line is Mark.FLUSH:
            ended = True
        elif part is arguments:
            raise ProtocolError("Git request", "has two delimiters")
        else:
            part = arguments
    if not ended:
        raise ProtocolError("Git request", "ends before its end")
    if head:
        command = head[0].removeprefix("command=")
    _check_format(head[1:])
    if command == "ls-refs":
        return _parse_list_refs(arguments)
    if command == "fetch":
        return _parse_fetch(arguments)
    raise ProtocolError("Git request", f"has the command {command[:80]!r}, only ls-refs and fetch are offered")


def _parse_list_refs(arguments: Iterable[str]) -> ListRefs:
    prefixes: list[str] = []
    flags: set[str] = set()
    for line in arguments:
        if line.startswith("ref-prefix "):
            prefixes.append(line.removeprefix("ref-prefix "))
        elif line in ("peel", "symrefs", "unborn"):
            flags.add(line)
        else:
            raise _not_offered(line)
    return ListRefs(prefixes=tuple(prefixes), symrefs="symrefs" in flags, unborn="unborn" in flags)


def _parse_fetch(arguments: Iterable[str]) -> Fetch:
    wants: list[Oid] = []
    haves: list[Oid] = []
    shallow: list[Oid] = []
    depth = 0
    relative = done = False
    for line in arguments:
        verb, _, rest = line.partition(" ")
        if verb == "want":
            wants.append(_oid(rest))
        elif verb == "have":
            haves.append(_oid(rest))
        elif verb == "shallow":
            shallow.append(_oid(rest))
        elif verb == "deepen":
            depth = _depth(rest)
        elif line == _RELATIVE:
            relative = True
        elif verb in ("deepen-since", "deepen-not"):  # version 2 has no way to say that only depths are offered
            raise Refused("history", "cannot be cut by time or by name", "say how many commits, with --depth")
        elif verb == "want-ref":
            raise Refused(f"ref {rest[:200]!r}", "cannot be wanted by name", "want the commit that ls-refs names")
        elif line == "done":
            done = True
        elif line not in _V2_IGNORED:
            raise _not_offered(line)
    return Fetch(
        wants=_distinct(wants),
        haves=_distinct(haves),
        shallow=_distinct(shallow),
        depth=depth,
        relative=relative,
        done=done,
    )


def list_refs(asked: ListRefs, ref: str, tip: Oid | None) -> bytes:
    """Pure: the answer to ls-refs: HEAD and `ref`, as far as their prefixes were asked for."""

    def wanted(name: str) -> bool:
        return not asked.prefixes or name.startswith(asked.prefixes)

    target = f" symref-target:{ref}" if asked.symrefs else ""
    lines = b""
    if tip is None:
        lines = packet(f"unborn HEAD{target}\n") if asked.unborn and wanted("HEAD") else b""
    else:
        lines += packet(f"{tip} HEAD{target}\n") if wanted("HEAD") else b""
        lines += packet(f"{tip} {ref}\n") if wanted(ref) else b""
    return lines + FLUSH


def negotiate_v2(asked: Fetch, common: Sequence[Oid], cut: Cut) -> Reply:
    """Pure: what a v2 client is told about its haves; `common` are those that we know too, in its order."""
    if not asked.wants:
        return Reply(head=FLUSH, pack=False)
    head = b""
    if asked.haves and not asked.done:
        head = packet("acknowledgments\n")
        head += b"".join(packet(f"ACK {oid}\n") for oid in common) or packet("NAK\n")
        if not common:
            return Reply(head=head + FLUSH, pack=False)
        head += packet("ready\n") + _DELIMITER
    if asked.depth:
        head += packet("shallow-info\n") + _edges(cut) + _DELIMITER
    return Reply(head=head + packet("packfile\n"), pack=True)


# --- both -------------------------------------------------------------------------------------------------------------


def side_band(data: bytes, *, band: int = 1) -> bytes:
    """Pure: `data` as packets of one band: 1 is the pack, 3 an error that ends the client."""
    step = _MAX_PACKET - 5
    return b"".join(packet(bytes((band,)) + data[at : at + step]) for at in range(0, len(data), step))


def _edges(cut: Cut) -> bytes:
    lines = [f"shallow {oid}\n" for oid in cut.shallow] + [f"unshallow {oid}\n" for oid in cut.unshallow]
    return b"".join(map(packet, lines))


def _depth(text: str) -> int:
    if not (len(text) <= 10 and text.isascii() and text.isdigit() and 0 < int(text) < 1 << 31):
        raise ProtocolError("Git request", f"has {text[:80]!r} for a depth")
    return int(text)


def _oid(text: str) -> Oid:
    if not is_oid(text):
        raise ProtocolError("Git request", f"has {text[:80]!r} for an object id")
    return Oid(text)


def _distinct(oids: Iterable[Oid]) -> tuple[Oid, ...]:
    return tuple(dict.fromkeys(oids))


def _check_format(capabilities: Iterable[str]) -> None:
    for capability in capabilities:
        if capability.startswith("object-format=") and capability != "object-format=sha1":
            raise _not_offered(capability)


def _not_offered(line: str) -> ProtocolError:
    return ProtocolError("Git request", f"has {line[:80]!r}, which is not offered here")

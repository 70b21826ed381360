"""The requests of a revision with the definitions of custom kinds that they are rendered with, as the hub has them, for
commands that render only what differs.

To know who defines and who uses a kind takes a render, so few are made: of bundles whose files hold a definition, and
of those whose files name a kind that one of them defines, if that can change what they render to:

| the kind                                                    | its users are rendered with the definition      |
|-------------------------------------------------------------|-------------------------------------------------|
| has no namespace, and nobody knows that without definition  | always                                          |
| any other                                                   | where `validation: error` may refuse them       |

What a packed chart holds is not looked through: it may be anything. Next: `revisions` compares.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import orjson

from hub.cli import progress
from hub.model import Bundle
from hub.render import build, objects
from hub.renders import Notes, RenderRequest
from hub.repo import definitions, sources
from proto.ids import Oid

Renders = Callable[[RenderRequest], build.Rendered | None]
_DEFINITION = b"CustomResourceDefinition"


def settled(
    tree: sources.Tree, requests: Sequence[RenderRequest], render: Renders, known: dict[Oid, bytes]
) -> tuple[RenderRequest, ...]:
    """The requests as they are to be rendered; `known` gets the definitions that they name. `render` gives None, and
    tells, where it fails."""
    first = {request.bundle.name: request for request in reversed(requests)}
    bundles = {name: request.bundle for name, request in first.items()}
    texts = {bundle.folder: _texts(tree, bundle) for bundle in bundles.values()}
    notes = _rendered(requests, _naming(bundles.values(), texts, [_DEFINITION]), render, known, notes={})
    scopes = objects.scopes_of(orjson.loads(data) for data in known.values())
    learned = {kind for (group, kind), alone in scopes.items() if alone and (group, kind) not in objects.CLUSTER_SCOPED}
    strict = [request.bundle for request in first.values() if _is_strict(request)]
    users = _naming(bundles.values(), texts, [kind.encode() for kind in learned])
    users |= _naming(strict, texts, [kind.encode() for _, kind in scopes])
    _rendered(requests, users, render, known, notes)
    return definitions.settled(requests, notes, kept={}, renderer=build.RENDERER_VERSION)


def _rendered(
    requests: Iterable[RenderRequest],
    names: Collection[str],
    render: Renders,
    known: dict[Oid, bytes],
    notes: dict[str, Notes],
) -> dict[str, Notes]:
    """`notes` with those of the requests of these bundles."""
    todo = [request for request in requests if request.bundle.name in names and request.key not in notes]
    for request in progress.tracked(todo, "looking for definitions", total=len(todo)):
        if (made := render(request)) is not None:
            notes[request.key] = made.notes
            known |= definitions.found(made.notes, made.files)
    return notes


def _texts(tree: sources.Tree, bundle: Bundle) -> bytes | None:
    """All that the bundle's files say; None if they do not say it all."""
    found: list[bytes] = []
    for path, content in tree.files(bundle.folder):
        if path.endswith((".tgz", ".tar.gz")):
            return None
        if isinstance(content, bytes):
            found.append(content)
    return b"\n".join(found)


def _naming(bundles: Iterable[Bundle], texts: Mapping[str, bytes | None], words: Collection[bytes]) -> set[str]:
    """The bundles of which a file may have one of the words."""
    if not words:
        return set()
    found: set[str] = set()
    for bundle in bundles:
        text = texts[bundle.folder]
        if text is None or any(word in text for word in words):
            found.add(bundle.name)
    return found


def _is_strict(request: RenderRequest) -> bool:
    return (request.inputs.get("checks") or {}).get("validation") == "error"

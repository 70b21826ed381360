"""`GET /openapi.json`: the hub's HTTP API as an OpenAPI 3.1 document, for clients and for tools that try it.

Written as a table, one row for each route (`schemas` has the objects); a test compares it with the routes that are
served, and another sends what it allows and what it forbids to a hub and holds each answer against it. Not in it: the
agents' stream (a WebSocket) and their Git, which speak protocols of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from aiohttp import web

from hub.api import http
from hub.api.schemas import (
    ACTOR,
    COUNT,
    REASON,
    SCHEMAS,
    TEXT,
    TIME,
    WHICH,
    YES,
    Json,
    list_of,
    map_of,
    object_of,
    or_null,
    ref,
)
from hub.api.webhooks import PROVIDERS
from hub.state import VERBS

PATH = "/openapi.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route. `answer` is the schema of what 200 brings, or its media type; `body` the fields of a command, which
    needs a token (403: the operator's is not enough); `wrong` the other statuses, each with an Error."""

    method: str
    path: str
    says: str
    answer: Json | str
    query: Mapping[str, Json] | None = None
    body: Json | None = None
    wrong: Sequence[int] = ()


def _number(most: int) -> Json:
    return {"type": "integer", "minimum": 0, "maximum": most}


_EVENTS: Mapping[str, Json] = {"since": _number(2**62), "limit": _number(1000), "cluster": TEXT, "bundle": TEXT}
_ROLLOUT, _BUNDLE, _CLUSTER = "/api/v1/rollouts/{id}", "/api/v1/bundles/{name}", "/api/v1/clusters/{name}"


def _get(path: str, says: str, answer: Json | str, **more: Any) -> Operation:
    return Operation(method="get", path=path, says=says, answer=answer, **more)


def _post(path: str, says: str, answer: Json | str, body: Json, *, wrong: Sequence[int] = ()) -> Operation:
    return Operation(method="post", path=path, says=says, answer=answer, body=body, wrong=(400, 401, 503, *wrong))


OPERATIONS: Sequence[Operation] = (
    _get("/", "The status page", "text/html"),
    _get(PATH, "This document", {"type": "object"}),
    _get("/healthz", "The process answers", "text/plain"),
    _get("/readyz", "The fleet repo was read and decisions can be stored", "text/plain", wrong=(503,)),
    _get("/metrics", "For Prometheus", "text/plain"),
    _get("/api/v1/stream", "Server-sent events: the fleet, at once and after each change", "text/event-stream"),
    _get("/api/v1/fleet", "Everything in one object", ref("Fleet")),
    _get("/api/v1/clusters", "All clusters", object_of(clusters=list_of(ref("Cluster")))),
    _get(_CLUSTER, "One cluster, with its bundles and its last moves", ref("OneCluster"), wrong=(404,)),
    _get("/api/v1/bundles", "All bundles", object_of(bundles=list_of(ref("Bundle")))),
    _get(
        "/api/v1/rollouts",
        "Rollouts, newest first",
        object_of(rollouts=list_of(ref("Rollout")), joining=list_of(ref("Joining"))),
        query={"limit": _number(1000)},
        wrong=(400,),
    ),
    _get(_ROLLOUT, "One rollout, with its members", ref("Rollout"), wrong=(404,)),
    _get(
        _ROLLOUT + "/why",
        "What a rollout did and why, or what happened to one cluster in it; first why it does not move now",
        ref("Why"),
        query={"cluster": TEXT},
        wrong=(400, 404),
    ),
    _get(
        "/api/v1/drift", "Drift, oldest first", object_of(drift=list_of(ref("Event"))), query=_EVENTS, wrong=(400, 404)
    ),
    _get(
        "/api/v1/events",
        "Everything that happened, oldest first",
        object_of(events=list_of(ref("Event"))),
        query={**_EVENTS, "kind": TEXT},
        wrong=(400, 404),
    ),
    _get(
        "/api/v1/audit",
        "Who did what, when, why and to what: the newest, oldest first",
        object_of(audit=list_of(ref("Word"))),
        query={
            **{name: {"type": "string", "description": "RFC 3339."} for name in ("since", "until")},
            **{
                "before": _number(2**62),
                "limit": _number(1000),
                "actor": TEXT,
                "cluster": TEXT,
                "bundle": TEXT,
                "rollout": TEXT,
            },
        },
        wrong=(400, 404),
    ),
    _get(
        "/api/v1/history",
        "What ran where, since when, until when, by whose commit and words: the newest, oldest first; or what ran then",
        object_of(
            history=list_of(
                object_of(
                    **dict.fromkeys(("cluster", "bundle", "subtree", "revision", "rollout", "wave"), TEXT),
                    since=TIME,
                    until=TEXT,
                    seq=COUNT,
                    back=YES,
                )
            ),
            rollouts=map_of(object_of(revision=TEXT, author=TEXT, subject=TEXT, words=list_of(ref("Word")))),
        ),
        query={
            "at": {"type": "string", "description": "RFC 3339."},
            **{"limit": _number(1000), "cluster": TEXT, "bundle": TEXT},
        },
        wrong=(400, 404),
    ),
    _get(
        "/api/v1/receivers",
        "Who is told of what happens, and what they have not got",
        object_of(receivers=list_of(ref("Receiver"))),
        wrong=(503,),
    ),
    _post(
        "/api/v1/receivers/{name}/test",
        "Send a receiver a message that tells of nothing; says whether it took it",
        object_of(receiver=TEXT, delivered=YES, error=TEXT),
        object_of("actor", actor=ACTOR),
        wrong=(404,),
    ),
    _post(
        "/api/v1/join-tokens",
        "Make a token with which one agent of a cluster joins, once",
        object_of(cluster=TEXT, token=TEXT, expires_at=TIME),
        object_of("ttl_s", cluster=TEXT, ttl_s={"type": "number", "minimum": 60, "maximum": 30 * 24 * 3600}),
        wrong=(403,),
    ),
    _post(
        "/api/v1/sync",
        "Look at the fleet repo now; accept_rewrite takes a rewritten history too, and needs a reason; refresh "
        "resolves the sources of these bundles outside the fleet repo anew (*: of all)",
        object_of(upstream=ref("Upstream")),
        object_of(
            *("accept_rewrite", "refresh", "reason", "actor"),
            accept_rewrite=YES,
            refresh=list_of(TEXT),
            reason=TEXT,
            actor=ACTOR,
        ),
        wrong=(403,),
    ),
    _post(
        _ROLLOUT + "/{verb}",
        "A person's word to a rollout: hold it up, let it go on, open its gates, leave clusters out, end it",
        {"oneOf": [ref("Rollout"), {"type": "object", "maxProperties": 0}]},
        object_of("actor", "cluster", "gate", reason=REASON, actor=ACTOR, cluster=TEXT, gate=TEXT),
        wrong=(403, 404),
    ),
    *(
        _post(
            f"{_BUNDLE}/{verb}",
            says,
            object_of(bundle=TEXT, hold=or_null(ref("Hold")), rollout=TEXT),
            object_of("actor", "abort", *more, reason=REASON, actor=ACTOR, abort=YES, **more),
            wrong=(404,),
        )
        for verb, says, more in (
            ("hold", "Keep it as it is until it is released; abort ends rollouts of it that are under way", {}),
            (
                "rollback",
                "Bring it back to the revision `to`, or to what it was before, and keep it there",
                {"to": TEXT, "at_once": YES},
            ),
        )
    ),
    _post(
        _BUNDLE + "/release",
        "Let a bundle that is on hold go on",
        object_of(bundle=TEXT, hold={"type": "null"}),
        object_of("actor", reason=REASON, actor=ACTOR),
        wrong=(404,),
    ),
    *(
        _post(
            f"{_BUNDLE}/{verb}",
            says,
            ref("Asked"),
            object_of("clusters", "labels", "actor", **WHICH, reason=REASON),
            wrong=(404,),
        )
        for verb, says in (("suspend", "Write nothing of this bundle"), ("resume", "Go on with it"))
    ),
    _post(
        _BUNDLE + "/sync",
        "Look at every object of it now",
        ref("Asked"),
        object_of("clusters", "labels", "actor", "reason", **WHICH, reason=TEXT),
        wrong=(404,),
    ),
    *(
        _post(
            f"{_CLUSTER}/{verb}",
            says,
            object_of(cluster=TEXT, cordoned=or_null(object_of(why=TEXT, since=TIME))),
            object_of("actor", reason=REASON, actor=ACTOR),
            wrong=(404,),
        )
        for verb, says in (("cordon", "Keep rollouts away from it"), ("uncordon", "Let rollouts go there again"))
    ),
    _post(
        _CLUSTER + "/pause",
        "Tell drift, and undo it when the pause is over: give its end or its length",
        ref("Asked"),
        object_of("actor", "until", "for_s", reason=REASON, actor=ACTOR, until=TEXT, for_s={"type": "number"}),
        wrong=(404,),
    ),
    _post(
        _CLUSTER + "/resume",
        "Undo drift again",
        ref("Asked"),
        object_of("actor", reason=REASON, actor=ACTOR),
        wrong=(404,),
    ),
    _post(
        _CLUSTER + "/sync",
        "Look at every object now",
        ref("Asked"),
        object_of("actor", "reason", reason=TEXT, actor=ACTOR),
        wrong=(404,),
    ),
    _post(
        _CLUSTER + "/bundle",
        "Its slice as a git bundle, whole or from the slice `since` on, with the values of Secrets",
        "application/x-git-bundle",
        object_of("since", "history", since=TEXT, history=YES),
        wrong=(403, 404),
    ),
    _post(
        "/api/v1/drift/{id}/values",
        "Ask the agent what Git wants and what was there",
        {"allOf": [ref("Event"), object_of(values=list_of({"type": "object"}), problem=TEXT)]},
        object_of(),
        wrong=(404,),
    ),
    Operation(
        method="post",
        path="/webhooks/{provider}",
        says="A Git host tells of a push; signed by it",
        answer=ref("Delivery"),
        wrong=(400, 401, 403, 404, 408, 413, 415),
    ),
)
_CHOICES: Mapping[str, Sequence[str]] = {
    "verb": VERBS,
    "provider": tuple(PROVIDERS),
}


def document() -> Json:
    """The whole document."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Flotilla hub",
            "version": metadata.version("flotilla"),
            "description": "Reads are open to whoever reaches the listener; commands need the operator's token, or the "
            "administrator's, who alone may do what answers 403.",
        },
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation) -> Json:
    parts = [part for part in operation.path.split("/") if part.startswith("{")]
    parameters = [
        {"in": "path", "name": name, "required": True, "schema": _choice(name)} for name in (p[1:-1] for p in parts)
    ]
    parameters += [{"in": "query", "name": name, "schema": schema} for name, schema in (operation.query or {}).items()]
    plain = isinstance(operation.answer, str)
    answer = {operation.answer: {"schema": TEXT}} if plain else _json(operation.answer)
    error = {"text/plain": {"schema": TEXT}} if operation.answer == "text/plain" else _json(ref("Error"))
    found: Json = {
        "summary": operation.says,
        "parameters": parameters,
        "responses": {
            "200": {"description": "So it is", "content": answer},
            **{str(status): {"description": "Why not", "content": error} for status in sorted(operation.wrong)},
        },
    }
    if operation.body is not None:
        found["requestBody"] = {"content": _json(operation.body), "required": bool(operation.body["required"])}
        found["security"] = [{"token": []}]
    elif operation.method == "post":
        found["requestBody"] = {"content": _json({"type": "object"}), "required": True}
    return found


def _choice(name: str) -> Json:
    return {"enum": list(_CHOICES[name])} if name in _CHOICES else TEXT


def _json(schema: Any) -> Json:
    return {"application/json": {"schema": schema}}


def routes() -> list[web.RouteDef]:
    """The document's own route."""
    made = document()

    async def handler(request: web.Request) -> web.Response:
        return http.answer(made)

    return [web.get(PATH, handler)]

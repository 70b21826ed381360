"""`GET /openapi.json`: the hub's HTTP API as an OpenAPI 3.1 document, for clients and for tools that try it.

Written as a table, one row for each route; a test compares it with the routes that are served, and another sends what
it allows and what it forbids to a hub and holds each answer against it. Objects may get more fields at any time, those
that are named here stay. Not in it: the agents' stream (a WebSocket) and their Git, which speak protocols of their own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from aiohttp import web

from hub.api import http
from hub.api.webhooks import PROVIDERS
from hub.state import VERBS

PATH = "/openapi.json"

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_YES: Json = {"type": "boolean"}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _list(of: Json) -> Json:
    return {"type": "array", "items": of}


def _object(*optional: str, **fields: Json) -> Json:
    """Fields are required unless they are named in `optional`."""
    return {"type": "object", "properties": fields, "required": [name for name in fields if name not in optional]}


def _map(of: Json) -> Json:
    return {"type": "object", "additionalProperties": of}


def _or_null(schema: Json) -> Json:
    return {"oneOf": [schema, {"type": "null"}]}


_TIME: Json = {"type": "string", "description": "RFC 3339 in UTC, or empty for never."}
_PLACE = _object(seq=_COUNT, commit=_TEXT)
_REASON: Json = {"type": "string", "pattern": r"\S", "description": "Kept with the command."}
_ACTOR: Json = {"type": "string", "description": "Who says so; whose token it is if nobody."}
_WHICH: Json = {
    "clusters": _list(_TEXT),
    "labels": _map(_TEXT),
    "actor": _ACTOR,
}
_SCHEMAS: Mapping[str, Json] = {
    "Error": _object(error=_TEXT, remedy=_TEXT),
    "Why": _object(
        rollout=_TEXT,
        phase=_TEXT,
        cluster=_TEXT,
        problem=_TEXT,
        now=_list(_TEXT),
        waited=_list(_object(**{"for": _TEXT, "seconds": {"type": "number"}})),
        lines=_list(_object(time=_TIME, kind=_TEXT, text=_TEXT)),
        left_out=_COUNT,
    ),
    "Finding": _object(where=_TEXT, severity=_TEXT, message=_TEXT, remedy=_TEXT, about=_TEXT),
    "Upstream": _object(url=_TEXT, branch=_TEXT, commit=_TEXT, synced_at=_TIME, problem=_TEXT),
    "Fleet": _object(
        upstream=_ref("Upstream"),
        revision=_TEXT,
        clusters=_object(total=_COUNT, connected=_COUNT, health=_map(_COUNT)),
        bundles=_COUNT,
        rollouts=_list(_ref("Rollout")),
        holds=_list(_TEXT),
        freezes=_list(
            _object(
                **{"from": _TIME, "to": _TIME},
                name=_TEXT,
                reason=_TEXT,
                now=_YES,
                everywhere=_YES,
                clusters=_COUNT,
            )
        ),
        on_hold=_list({"allOf": [_ref("Hold"), _object(bundle=_TEXT)]}),
        directives=_list(_object(kind=_TEXT, cluster=_TEXT, bundle=_TEXT, why=_TEXT, since=_TIME, until=_TIME)),
        findings=_list(_ref("Finding")),
        problems=_list(_TEXT),
    ),
    "Cluster": _object(
        name=_TEXT,
        labels=_map(_TEXT),
        in_fleet_repo=_YES,
        health=_TEXT,
        connection=_TEXT,
        last_seen=_TIME,
        decided=_PLACE,
        applied=_PLACE,
        bundles=_COUNT,
        drift_total=_COUNT,
        paused=_or_null(_object(until=_TIME, why=_TEXT)),
        cordoned=_or_null(_object(why=_TEXT, since=_TIME)),
        problems=_list(_TEXT),
    ),
    "OneCluster": {
        "allOf": [
            _ref("Cluster"),
            _object(
                bundle_list=_list(_object(name=_TEXT, decided_subtree=_TEXT, applied_subtree=_TEXT, health=_TEXT)),
                moves=_list(_object(seq=_COUNT, old=_TEXT, new=_TEXT, time=_TIME)),
            ),
        ]
    },
    "Hold": _object(
        rollout=_TEXT,
        reason=_TEXT,
        since=_TIME,
        until={"enum": ["changed", "released"], "description": "What ends it; a person's release always does."},
        revision={"type": "string", "description": "The one that a person keeps the bundle at, or empty."},
    ),
    "Bundle": _object(
        name=_TEXT,
        wanted_on=_COUNT,
        runs_on=_COUNT,
        health=_TEXT,
        rollout=_TEXT,
        hold=_or_null(_ref("Hold")),
        suspended=_list(_object(cluster=_TEXT, why=_TEXT)),
        source=_or_null(_object(url=_TEXT, revision=_TEXT, digest=_TEXT)),
        failed=_YES,
        findings=_list(_ref("Finding")),
    ),
    "Gate": _object(
        gate=_TEXT,
        wave=_TEXT,
        when={"enum": ["before", "after"]},
        check={"enum": ["approval", "metric", "http", "bundle"]},
        state={"enum": ["waits", "open", "waived", "failed"]},
        since=_TIME,
        until=_TIME,
        wants=_TEXT,
        found=_TEXT,
        votes=_list(_object(actor=_TEXT, reason=_TEXT, at=_TIME, expires=_TIME)),
        needs=_COUNT,
        command=_TEXT,
    ),
    "Rollout": _object(
        "members",
        id=_TEXT,
        number=_COUNT,
        bundles=_list(_TEXT),
        revision=_TEXT,
        phase=_TEXT,
        reason=_TEXT,
        made_at=_TIME,
        updated_at=_TIME,
        final=_YES,
        wave=_COUNT,
        waves=_list(_object(name=_TEXT, state=_TEXT, clusters=_COUNT)),
        phases=_map(_COUNT),
        gates=_list(_ref("Gate")),
        window=_or_null(_object(text=_TEXT, opens=_TIME, opens_local=_TEXT)),
        held=_list(_object(why=_TEXT, clusters=_list(_TEXT), total=_COUNT)),
        emergency=_TEXT,
        members=_list(_object(cluster=_TEXT, phase=_TEXT, reason=_TEXT)),
    ),
    "Event": _object(
        "data",
        id=_COUNT,
        time=_TIME,
        kind=_TEXT,
        cluster=_TEXT,
        bundle=_TEXT,
        rollout=_TEXT,
        text=_TEXT,
        data={"type": "object"},
    ),
    "Word": _object(
        id=_COUNT,
        time=_TIME,
        actor=_TEXT,
        role=_TEXT,
        verb=_TEXT,
        reason=_TEXT,
        clusters=_list(_TEXT),
        bundles=_list(_TEXT),
        rollout=_TEXT,
        text=_TEXT,
    ),
    "Receiver": _object(
        name=_TEXT,
        host=_TEXT,
        pending=_COUNT,
        pending_since=_TIME,
        lost=_COUNT,
        delivered_at=_TIME,
        failing_since=_TIME,
        error=_TEXT,
    ),
    "Asked": _object(bundle=_TEXT, clusters=_list(_object(cluster=_TEXT, not_yet=_TEXT))),
    "Delivery": _object(result={"enum": ["woken", "ignored"]}, reason=_TEXT),
}


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


_EVENTS: Mapping[str, Json] = {"since": _number(2**62), "limit": _number(1000), "cluster": _TEXT, "bundle": _TEXT}
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
    _get("/api/v1/fleet", "Everything in one object", _ref("Fleet")),
    _get("/api/v1/clusters", "All clusters", _object(clusters=_list(_ref("Cluster")))),
    _get(_CLUSTER, "One cluster, with its bundles and its last moves", _ref("OneCluster"), wrong=(404,)),
    _get("/api/v1/bundles", "All bundles", _object(bundles=_list(_ref("Bundle")))),
    _get(
        "/api/v1/rollouts",
        "Rollouts, newest first",
        _object(rollouts=_list(_ref("Rollout"))),
        query={"limit": _number(1000)},
        wrong=(400,),
    ),
    _get(_ROLLOUT, "One rollout, with its members", _ref("Rollout"), wrong=(404,)),
    _get(
        _ROLLOUT + "/why",
        "What a rollout did and why, or what happened to one cluster in it; first why it does not move now",
        _ref("Why"),
        query={"cluster": _TEXT},
        wrong=(400, 404),
    ),
    _get("/api/v1/drift", "Drift, oldest first", _object(drift=_list(_ref("Event"))), query=_EVENTS, wrong=(400,)),
    _get(
        "/api/v1/events",
        "Everything that happened, oldest first",
        _object(events=_list(_ref("Event"))),
        query={**_EVENTS, "kind": _TEXT},
        wrong=(400,),
    ),
    _get(
        "/api/v1/audit",
        "Who did what, when, why and to what: the newest, oldest first",
        _object(audit=_list(_ref("Word"))),
        query={
            **{name: {"type": "string", "description": "RFC 3339."} for name in ("since", "until")},
            **{
                "before": _number(2**62),
                "limit": _number(1000),
                "actor": _TEXT,
                "cluster": _TEXT,
                "bundle": _TEXT,
                "rollout": _TEXT,
            },
        },
        wrong=(400,),
    ),
    _get(
        "/api/v1/history",
        "What ran where, since when, until when, by whose commit and words: the newest, oldest first; or what ran then",
        _object(
            history=_list(
                _object(
                    **dict.fromkeys(("cluster", "bundle", "subtree", "revision", "rollout", "wave"), _TEXT),
                    since=_TIME,
                    until=_TEXT,
                    seq=_COUNT,
                    back=_YES,
                )
            ),
            rollouts=_map(_object(revision=_TEXT, author=_TEXT, subject=_TEXT, words=_list(_ref("Word")))),
        ),
        query={
            "at": {"type": "string", "description": "RFC 3339."},
            **{"limit": _number(1000), "cluster": _TEXT, "bundle": _TEXT},
        },
        wrong=(400,),
    ),
    _get(
        "/api/v1/receivers",
        "Who is told of what happens, and what they have not got",
        _object(receivers=_list(_ref("Receiver"))),
        wrong=(503,),
    ),
    _post(
        "/api/v1/receivers/{name}/test",
        "Send a receiver a message that tells of nothing; says whether it took it",
        _object(receiver=_TEXT, delivered=_YES, error=_TEXT),
        _object("actor", actor=_ACTOR),
        wrong=(404,),
    ),
    _post(
        "/api/v1/join-tokens",
        "Make a token with which one agent of a cluster joins, once",
        _object(cluster=_TEXT, token=_TEXT, expires_at=_TIME),
        _object("ttl_s", cluster=_TEXT, ttl_s={"type": "number", "minimum": 60, "maximum": 30 * 24 * 3600}),
        wrong=(403,),
    ),
    _post(
        "/api/v1/sync",
        "Look at the fleet repo now; accept_rewrite takes a rewritten history too, and needs a reason; refresh "
        "resolves the sources of these bundles outside the fleet repo anew (*: of all)",
        _object(upstream=_ref("Upstream")),
        _object(
            *("accept_rewrite", "refresh", "reason", "actor"),
            accept_rewrite=_YES,
            refresh=_list(_TEXT),
            reason=_TEXT,
            actor=_ACTOR,
        ),
        wrong=(403,),
    ),
    _post(
        _ROLLOUT + "/{verb}",
        "A person's word to a rollout: hold it up, let it go on, open its gates, leave clusters out, end it",
        {"oneOf": [_ref("Rollout"), {"type": "object", "maxProperties": 0}]},
        _object("actor", "cluster", "gate", reason=_REASON, actor=_ACTOR, cluster=_TEXT, gate=_TEXT),
        wrong=(403, 404),
    ),
    *(
        _post(
            f"{_BUNDLE}/{verb}",
            says,
            _object(bundle=_TEXT, hold=_or_null(_ref("Hold")), rollout=_TEXT),
            _object("actor", "abort", *more, reason=_REASON, actor=_ACTOR, abort=_YES, **more),
            wrong=(404,),
        )
        for verb, says, more in (
            ("hold", "Keep it as it is until it is released; abort ends rollouts of it that are under way", {}),
            (
                "rollback",
                "Bring it back to the revision `to`, or to what it was before, and keep it there",
                {"to": _TEXT, "at_once": _YES},
            ),
        )
    ),
    _post(
        _BUNDLE + "/release",
        "Let a bundle that is on hold go on",
        _object(bundle=_TEXT, hold={"type": "null"}),
        _object("actor", reason=_REASON, actor=_ACTOR),
    ),
    *(
        _post(
            f"{_BUNDLE}/{verb}",
            says,
            _ref("Asked"),
            _object("clusters", "labels", "actor", **_WHICH, reason=_REASON),
            wrong=(404,),
        )
        for verb, says in (("suspend", "Write nothing of this bundle"), ("resume", "Go on with it"))
    ),
    _post(
        _BUNDLE + "/sync",
        "Look at every object of it now",
        _ref("Asked"),
        _object("clusters", "labels", "actor", "reason", **_WHICH, reason=_TEXT),
        wrong=(404,),
    ),
    *(
        _post(
            f"{_CLUSTER}/{verb}",
            says,
            _object(cluster=_TEXT, cordoned=_or_null(_object(why=_TEXT, since=_TIME))),
            _object("actor", reason=_REASON, actor=_ACTOR),
            wrong=(404,),
        )
        for verb, says in (("cordon", "Keep rollouts away from it"), ("uncordon", "Let rollouts go there again"))
    ),
    _post(
        _CLUSTER + "/pause",
        "Tell drift, and undo it when the pause is over: give its end or its length",
        _ref("Asked"),
        _object("actor", "until", "for_s", reason=_REASON, actor=_ACTOR, until=_TEXT, for_s={"type": "number"}),
        wrong=(404,),
    ),
    _post(
        _CLUSTER + "/resume",
        "Undo drift again",
        _ref("Asked"),
        _object("actor", reason=_REASON, actor=_ACTOR),
        wrong=(404,),
    ),
    _post(
        _CLUSTER + "/sync",
        "Look at every object now",
        _ref("Asked"),
        _object("actor", "reason", reason=_TEXT, actor=_ACTOR),
        wrong=(404,),
    ),
    _post(
        _CLUSTER + "/bundle",
        "Its slice as a git bundle, whole or from the slice `since` on, with the values of Secrets",
        "application/x-git-bundle",
        _object("since", "history", since=_TEXT, history=_YES),
        wrong=(403, 404),
    ),
    _post(
        "/api/v1/drift/{id}/values",
        "Ask the agent what Git wants and what was there",
        {"allOf": [_ref("Event"), _object(values=_list({"type": "object"}), problem=_TEXT)]},
        _object(),
        wrong=(404,),
    ),
    Operation(
        method="post",
        path="/webhooks/{provider}",
        says="A Git host tells of a push; signed by it",
        answer=_ref("Delivery"),
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
            "schemas": dict(_SCHEMAS),
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
    answer = {operation.answer: {"schema": _TEXT}} if plain else _json(operation.answer)
    error = {"text/plain": {"schema": _TEXT}} if operation.answer == "text/plain" else _json(_ref("Error"))
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
    return {"enum": list(_CHOICES[name])} if name in _CHOICES else _TEXT


def _json(schema: Any) -> Json:
    return {"application/json": {"schema": schema}}


def routes() -> list[web.RouteDef]:
    """The document's own route."""
    made = document()

    async def handler(request: web.Request) -> web.Response:
        return http.answer(made)

    return [web.get(PATH, handler)]

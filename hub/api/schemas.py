"""The objects that the hub's HTTP API answers with, as schemas of OpenAPI 3.1, and the words to write others with.

One entry for each object that more than one route answers with, or that holds others. Objects may get more fields at
any time, those that are named here stay. Next: `openapi` says which route answers with which. All of it is pure.
"""

from collections.abc import Mapping
from typing import Any, Final

Json = dict[str, Any]

TEXT: Final[Json] = {"type": "string"}
COUNT: Final[Json] = {"type": "integer", "minimum": 0}
YES: Final[Json] = {"type": "boolean"}


def ref(name: str) -> Json:
    """Pure: the object of `SCHEMAS` that has this name."""
    return {"$ref": f"#/components/schemas/{name}"}


def list_of(of: Json) -> Json:
    """Pure: any number of these."""
    return {"type": "array", "items": of}


def object_of(*optional: str, **fields: Json) -> Json:
    """Pure: an object with these fields, required unless they are named in `optional`."""
    return {"type": "object", "properties": fields, "required": [name for name in fields if name not in optional]}


def map_of(of: Json) -> Json:
    """Pure: these by any names."""
    return {"type": "object", "additionalProperties": of}


def or_null(schema: Json) -> Json:
    """Pure: this, or nothing."""
    return {"oneOf": [schema, {"type": "null"}]}


TIME: Final[Json] = {"type": "string", "description": "RFC 3339 in UTC, or empty for never."}
_PLACE: Final = object_of(seq=COUNT, commit=TEXT)
REASON: Final[Json] = {"type": "string", "pattern": r"\S", "description": "Kept with the command."}
ACTOR: Final[Json] = {"type": "string", "description": "Who says so; whose token it is if nobody."}
WHICH: Final[Json] = {
    "clusters": list_of(TEXT),
    "labels": map_of(TEXT),
    "actor": ACTOR,
}
SCHEMAS: Final[Mapping[str, Json]] = {
    "Error": object_of(error=TEXT, remedy=TEXT),
    "Why": object_of(
        rollout=TEXT,
        phase=TEXT,
        cluster=TEXT,
        problem=TEXT,
        now=list_of(TEXT),
        waited=list_of(object_of(**{"for": TEXT, "seconds": {"type": "number"}})),
        lines=list_of(object_of(time=TIME, kind=TEXT, text=TEXT)),
        left_out=COUNT,
    ),
    "Finding": object_of(where=TEXT, severity=TEXT, message=TEXT, remedy=TEXT, about=TEXT),
    "Upstream": object_of(url=TEXT, branch=TEXT, commit=TEXT, synced_at=TIME, problem=TEXT),
    "Joining": object_of(bundle=TEXT, why=TEXT, clusters=list_of(TEXT), total=COUNT),
    "Fleet": object_of(
        upstream=ref("Upstream"),
        revision=TEXT,
        clusters=object_of(total=COUNT, connected=COUNT, health=map_of(COUNT)),
        bundles=COUNT,
        rollouts=list_of(ref("Rollout")),
        holds=list_of(TEXT),
        freezes=list_of(
            object_of(
                **{"from": TIME, "to": TIME},
                name=TEXT,
                reason=TEXT,
                now=YES,
                everywhere=YES,
                clusters=COUNT,
            )
        ),
        on_hold=list_of({"allOf": [ref("Hold"), object_of(bundle=TEXT)]}),
        joining=list_of(ref("Joining")),
        directives=list_of(object_of(kind=TEXT, cluster=TEXT, bundle=TEXT, why=TEXT, since=TIME, until=TIME)),
        findings=list_of(ref("Finding")),
        problems=list_of(TEXT),
    ),
    "Cluster": object_of(
        name=TEXT,
        labels=map_of(TEXT),
        in_fleet_repo=YES,
        health=TEXT,
        connection=TEXT,
        last_seen=TIME,
        decided=_PLACE,
        applied=_PLACE,
        bundles=COUNT,
        drift_total=COUNT,
        paused=or_null(object_of(until=TIME, why=TEXT)),
        cordoned=or_null(object_of(why=TEXT, since=TIME)),
        problems=list_of(TEXT),
    ),
    "OneCluster": {
        "allOf": [
            ref("Cluster"),
            object_of(
                bundle_list=list_of(object_of(name=TEXT, decided_subtree=TEXT, applied_subtree=TEXT, health=TEXT)),
                moves=list_of(object_of(seq=COUNT, old=TEXT, new=TEXT, time=TIME)),
            ),
        ]
    },
    "Hold": object_of(
        rollout=TEXT,
        reason=TEXT,
        since=TIME,
        until={"enum": ["changed", "released"], "description": "What ends it; a person's release always does."},
        revision={"type": "string", "description": "The one that a person keeps the bundle at, or empty."},
    ),
    "Bundle": object_of(
        name=TEXT,
        wanted_on=COUNT,
        runs_on=COUNT,
        health=TEXT,
        rollout=TEXT,
        hold=or_null(ref("Hold")),
        suspended=list_of(object_of(cluster=TEXT, why=TEXT)),
        source=or_null(object_of(url=TEXT, revision=TEXT, digest=TEXT)),
        failed=YES,
        findings=list_of(ref("Finding")),
    ),
    "Gate": object_of(
        gate=TEXT,
        wave=TEXT,
        when={"enum": ["before", "after"]},
        check={"enum": ["approval", "metric", "http", "bundle"]},
        state={"enum": ["waits", "open", "waived", "failed"]},
        since=TIME,
        until=TIME,
        wants=TEXT,
        found=TEXT,
        votes=list_of(object_of(actor=TEXT, reason=TEXT, at=TIME, expires=TIME)),
        needs=COUNT,
        command=TEXT,
    ),
    "Rollout": object_of(
        "members",
        id=TEXT,
        number=COUNT,
        bundles=list_of(TEXT),
        revision=TEXT,
        phase=TEXT,
        reason=TEXT,
        made_at=TIME,
        updated_at=TIME,
        final=YES,
        wave=COUNT,
        waves=list_of(object_of(name=TEXT, state=TEXT, clusters=COUNT)),
        phases=map_of(COUNT),
        gates=list_of(ref("Gate")),
        window=or_null(object_of(text=TEXT, opens=TIME, opens_local=TEXT)),
        held=list_of(object_of(why=TEXT, clusters=list_of(TEXT), total=COUNT)),
        emergency=TEXT,
        members=list_of(object_of(cluster=TEXT, phase=TEXT, reason=TEXT)),
    ),
    "Event": object_of(
        "data",
        id=COUNT,
        time=TIME,
        kind=TEXT,
        cluster=TEXT,
        bundle=TEXT,
        rollout=TEXT,
        text=TEXT,
        data={"type": "object"},
    ),
    "Word": object_of(
        id=COUNT,
        time=TIME,
        actor=TEXT,
        role=TEXT,
        verb=TEXT,
        reason=TEXT,
        clusters=list_of(TEXT),
        bundles=list_of(TEXT),
        rollout=TEXT,
        text=TEXT,
    ),
    "Receiver": object_of(
        name=TEXT,
        host=TEXT,
        pending=COUNT,
        pending_since=TIME,
        lost=COUNT,
        delivered_at=TIME,
        failing_since=TIME,
        error=TEXT,
    ),
    "Asked": object_of(bundle=TEXT, clusters=list_of(object_of(cluster=TEXT, not_yet=TEXT))),
    "Delivery": object_of(result={"enum": ["woken", "ignored"]}, reason=TEXT),
}

"""Why a workload is not healthy, in words a person acts on: from its Pods, their containers, and their events.

Pure. Each Pod that is not well is asked in this order, the first that answers counts:

    what                                                              reason
    its node threw it out, or it failed as a whole                    Evicted, or the Pod's own word
    no node takes it                                                  Unschedulable, with the scheduler's message
    a container (init containers first) …
      cannot get its image                                            ImagePullBackOff, with the registry's message
      ends over and over, or ended with an error                      CrashLoopBackOff, ContainerFailed: code and cause
      cannot be made: a Secret, ConfigMap or key is missing, …        the kubelet's word and message
    its volumes or its network cannot be made                         FailedMount, … (an event)
    it runs and a probe, or a readiness gate, says no                 ProbeFailed (an event), ReadinessGate

Fewer Pods than wanted: why none can be made (an event of the owner): QuotaExceeded, AdmissionRefused, FailedCreate. A
claim that is not bound: its newest event. What most Pods have is told first, and counted.

What a container prints, or leaves as its termination message, is never told: it may hold a secret. Next: `explainer`
reads what is needed, and only for what is in trouble.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

LONGEST: Final = 500
"""Characters of one message; a scheduler's on a large cluster has thousands."""
_REASONS: Final = 3
"""Different ones that are told of one workload."""

_PULL: Final = frozenset(
    {
        *("ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"),
        *("RegistryUnavailable", "SignatureValidationFailed"),
    }
)
_WAITS: Final = frozenset({"ContainerCreating", "PodInitializing", ""})
"""Reasons of a waiting container that say nothing: its Pod's events do."""
_STARTING: Final = ("FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox", "NetworkNotReady")
_CREATING: Final = ("FailedCreate", "FailedCreatePod")
_STOPPED: Final = (137, 143)
"""Exit codes of what was killed, or asked to end."""
_CODES: Final = {126: "its command cannot be run", 127: "its command was not found", 137: "it was killed"}
_REFUSED: Final = re.compile(r"admission webhook .* denied|violates PodSecurity|ValidatingAdmissionPolicy")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Finding:
    """`what` tells one finding from another; `text` may have a Pod's own address in it, `pod` is its name."""

    reason: str
    what: str
    text: str
    pod: str


def explain(pods: Sequence[Json], events: Iterable[Json], *, wanted: int = 0) -> tuple[str, str] | None:
    """Pure: (reason, message), None when neither Pods nor events say anything. `events` are core/v1 ones of the Pods,
    and of the object that makes them; `wanted` is how many Pods there should be."""
    about: dict[str, list[Json]] = {}
    for event in sorted(events, key=_when, reverse=True):
        about.setdefault(str(_map(event, "involvedObject").get("uid", "")), []).append(event)
    alive = [pod for pod in pods if not _map(pod, "metadata").get("deletionTimestamp")]
    uids = {_uid(pod) for pod in alive}
    found = [finding for pod in alive if (finding := _pod(pod, about.get(_uid(pod), ()))) is not None]
    groups: dict[tuple[str, str], list[_Finding]] = {}
    for finding in found:
        groups.setdefault((finding.reason, finding.what), []).append(finding)
    told = [_told(group, len(alive)) for group in sorted(groups.values(), key=len, reverse=True)[:_REASONS]]
    reasons = [reason for reason, _ in groups]
    if len(alive) < wanted:
        makers = [event for uid, some in about.items() if uid not in uids for event in some]
        refused = _first(sorted(makers, key=_when, reverse=True), _CREATING)
        if refused is not None:
            reason, text = _not_made(_line(refused.get("message")))
            reasons.append(reason)
            told.append(f"{wanted - len(alive)} of {wanted} Pods cannot be created: {text}")
    if not told:
        return None
    first = max(groups, key=lambda key: len(groups[key]))[0] if groups else reasons[-1]
    return first, _short("; ".join(told))


def explain_claim(events: Iterable[Json]) -> tuple[str, str] | None:
    """Pure: the newest word on a volume claim that is not bound."""
    for event in sorted(events, key=_when, reverse=True):
        if event.get("message"):
            return str(event.get("reason") or "NotBound"), _short(f"is not bound: {_line(event['message'])}")
    return None


def _told(group: Sequence[_Finding], count: int) -> str:
    of = f"{len(group)} of {count} Pods" if count > 1 else f"Pod {group[0].pod}"
    like = f" (as {group[0].pod})" if count > 1 else ""
    return f"{of}{like}: {group[0].text}"


def _not_made(message: str) -> tuple[str, str]:
    text = message.removeprefix("Error creating: ")
    if "exceeded quota" in text:
        return "QuotaExceeded", text
    return ("AdmissionRefused" if _REFUSED.search(text) else "FailedCreate"), text


def _pod(pod: Json, events: Iterable[Json]) -> _Finding | None:
    status, name = _map(pod, "status"), str(_map(pod, "metadata").get("name", ""))
    conditions = {str(one.get("type")): one for one in _maps(status, "conditions")}
    if status.get("phase") == "Succeeded" or conditions.get("Ready", {}).get("status") == "True":
        return None
    events = list(events)
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        reason = str(scheduled.get("reason") or "Unschedulable")
        message = _line(scheduled.get("message")) or _message(events, "FailedScheduling")
        return _Finding(reason, "", f"no node takes it: {message}" if message else "no node takes it", name)
    if status.get("phase") == "Failed" and status.get("reason"):
        reason = str(status["reason"])
        return _Finding(reason, "", f"{reason}: {_line(status.get('message')) or 'look at its node'}", name)
    containers = [("init container", one) for one in _maps(status, "initContainerStatuses")]
    containers += [("container", one) for one in _maps(status, "containerStatuses")]
    for word, container in containers:
        found = _container(container, events, f"{word} {container.get('name', '')}")
        if found is not None:
            return _Finding(*found, name)
    starting = _first(events, _STARTING)
    if starting is not None and not any(_map(_map(one, "state"), "running") for _, one in containers):
        reason = str(starting["reason"])
        return _Finding(reason, "", _line(starting.get("message")) or reason, name)
    return _unready(conditions, [one for _, one in containers], events, name)


def _unready(
    conditions: Mapping[str, Json], containers: Sequence[Json], events: Sequence[Json], name: str
) -> _Finding | None:
    unwell = [one for one in containers if one.get("ready") is not True and _map(_map(one, "state"), "running")]
    probe = _first(events, ("Unhealthy", "ProbeWarning"))
    if unwell and probe is not None:
        container = _container_of(probe) or str(unwell[0].get("name", ""))
        return _Finding("ProbeFailed", container, f"container {container}: {_line(probe.get('message'))}", name)
    ready = conditions.get("Ready", {})
    if ready.get("reason") == "ReadinessGatesNotReady":
        return _Finding("ReadinessGate", "", _line(ready.get("message")) or "a readiness gate says no", name)
    return None


def _container(container: Json, events: Sequence[Json], who: str) -> tuple[str, str, str] | None:
    """Reason, what tells it from others, text."""
    state = _map(container, "state")
    waiting, ended = _map(state, "waiting"), _map(state, "terminated")
    reason, message = str(waiting.get("reason") or ""), _line(waiting.get("message"))
    last = ended or _map(_map(container, "lastState"), "terminated")
    restarts = container.get("restartCount")
    again = isinstance(restarts, int) and restarts > 1 and container.get("ready") is not True
    if reason in _PULL:
        image = str(container.get("image") or "")
        said = _registry(message) or _registry(_message(events, "Failed")) or reason
        return "ImagePullBackOff", f"{who} {image}", f"{who}: image {image} cannot be pulled: {said}"
    if reason == "CrashLoopBackOff" or (again and last.get("exitCode")):
        text = f"{who} ends again and again: {_ended(last)}"
        probe = _killing_probe(events, str(container.get("name", ""))) if last.get("exitCode") in _STOPPED else ""
        return "CrashLoopBackOff", f"{who} {_ended(last)}", f"{text}; {probe}" if probe else text
    if ended.get("exitCode"):
        return "ContainerFailed", f"{who} {_ended(ended)}", f"{who} ended: {_ended(ended)}"
    if reason not in _WAITS:
        return reason, f"{who} {message}", f"{who} cannot start: {message or reason}"
    return None


def _killing_probe(events: Iterable[Json], container: str) -> str:
    """The newest word of a probe whose failure ends a container."""
    for event in events:
        message = _line(event.get("message"))
        killing = event.get("reason") == "Unhealthy" and message.startswith(("Liveness", "Startup"))
        if killing and _container_of(event) in ("", container):
            return message
    return ""


def _ended(last: Json) -> str:
    """How a container ended last, without its own words."""
    if not last:
        return "look at its log"
    code, reason = last.get("exitCode"), str(last.get("reason") or "")
    if reason == "OOMKilled":
        return f"exit code {code} (OOMKilled: it needs more memory than its limit)"
    meaning = _CODES.get(code, "") if isinstance(code, int) else ""
    why = ", ".join(part for part in (reason if reason not in ("", "Error") else "", meaning) if part)
    return f"exit code {code}" + (f" ({why})" if why else "") + "; look at its log"


_BACK_OFF: Final = re.compile(r'^Back-off pulling image "[^"]*"(: ErrImagePull)?(: )?')
_PULLING: Final = re.compile(r'^Failed to pull image "[^"]*"(: )?')
_RPC: Final = re.compile(r'^rpc error: code = \w+ desc = (failed to pull and unpack image "[^"]*": )?')


def _registry(message: str) -> str:
    """What the registry, or the runtime, says of an image, without what stands before it; "" if it is only the wait."""
    if message.startswith("Error: "):
        return ""
    return _RPC.sub("", _PULLING.sub("", _BACK_OFF.sub("", message)))


# --- events and fields --------------------------------------------------------------------------------------------


def _first(events: Iterable[Json], reasons: Sequence[str]) -> Json | None:
    return next((event for event in events if event.get("reason") in reasons), None)


def _message(events: Iterable[Json], reason: str) -> str:
    """The newest message of a reason that says more than that there was an error."""
    said = (_line(event.get("message")) for event in events if event.get("reason") == reason)
    return next((message for message in said if message and not message.startswith("Error: ")), "")


def _container_of(event: Json) -> str:
    """`spec.containers{app}` is where an event of a container points to."""
    found = re.search(r"{([^}]*)}", str(_map(event, "involvedObject").get("fieldPath") or ""))
    return found[1] if found else ""


def _when(event: Json) -> str:
    """RFC 3339 in UTC, which sorts as text."""
    series = _map(event, "series").get("lastObservedTime")
    return str(series or event.get("lastTimestamp") or event.get("eventTime") or "")


def _uid(obj: Json) -> str:
    return str(_map(obj, "metadata").get("uid", ""))


def _line(text: object) -> str:
    return _short(" ".join(str(text or "").split()))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _map(obj: Json, name: str) -> Json:
    found = obj.get(name)
    return found if isinstance(found, Mapping) else {}


def _maps(obj: Json, name: str) -> list[Json]:
    found = obj.get(name)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []

"""Why a workload is not healthy, in words: literal Pods and events in, one sentence out."""

from typing import Any

import pytest
import yaml

from agent.explain import LONGEST, explain, explain_claim


def pod(text: str, name: str = "web-1") -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name}, "status": yaml.safe_load(text)}


def event(uid: str, reason: str, message: str, *, at: str = "2026-01-01T00:00:00Z", path: str = "") -> dict[str, Any]:
    about = {"uid": uid, **({"fieldPath": path} if path else {})}
    return {"involvedObject": about, "reason": reason, "message": message, "lastTimestamp": at}


PULL = """
phase: Pending
conditions: [{type: PodScheduled, status: "True"}, {type: Ready, status: "False", reason: ContainersNotReady}]
containerStatuses:
- {name: app, image: "example.org/shop:bad", state: {waiting: {reason: REASON, message: MESSAGE}}}
"""


def pulling(reason: str, message: str = "") -> str:
    return PULL.replace("REASON", reason).replace("MESSAGE", repr(message).replace("\\'", "''"))


CRASH = """
phase: Running
containerStatuses:
- name: app
  restartCount: 5
  state: {waiting: {reason: CrashLoopBackOff, message: "back-off 2m40s restarting failed container"}}
  lastState: {terminated: {exitCode: CODE, reason: WHY, message: "password=hunter2"}}
"""


def crashing(code: int, why: str = "Error") -> str:
    return CRASH.replace("CODE", str(code)).replace("WHY", why)


NOT_READY = """
phase: Running
conditions: [{type: Ready, status: "False", reason: ContainersNotReady}]
containerStatuses: [{name: app, ready: false, restartCount: 0, state: {running: {startedAt: x}}}]
"""
READY = """
phase: Running
conditions: [{type: Ready, status: "True"}]
containerStatuses:
- {name: app, ready: true, restartCount: 9, state: {running: {}}, lastState: {terminated: {exitCode: 1}}}
"""
UNSCHEDULABLE = """
phase: Pending
conditions:
- {type: PodScheduled, status: "False", reason: Unschedulable, message: "0/3 nodes are available: 3 Insufficient cpu."}
"""


@pytest.mark.parametrize(
    ("status", "events", "reason", "message"),
    [
        pytest.param(
            pulling(
                "ImagePullBackOff",
                'Back-off pulling image "example.org/shop:bad": ErrImagePull: rpc error: code = NotFound desc = '
                'failed to pull and unpack image "example.org/shop:bad": not found',
            ),
            [],
            "ImagePullBackOff",
            "Pod web-1: container app: image example.org/shop:bad cannot be pulled: not found",
            id="image",
        ),
        pytest.param(
            pulling("ErrImagePull", "rpc error: code = Unknown desc = unauthorized: access denied"),
            [],
            "ImagePullBackOff",
            "Pod web-1: container app: image example.org/shop:bad cannot be pulled: unauthorized: access denied",
            id="image, first try",
        ),
        pytest.param(
            pulling("ImagePullBackOff", 'Back-off pulling image "example.org/shop:bad"'),
            [
                event("web-1", "Failed", "Error: ImagePullBackOff", at="2026-01-01T00:00:09Z"),
                event("web-1", "Failed", 'Failed to pull image "example.org/shop:bad": manifest unknown'),
            ],
            "ImagePullBackOff",
            "Pod web-1: container app: image example.org/shop:bad cannot be pulled: manifest unknown",
            id="image, and only an event says why",
        ),
        pytest.param(
            pulling("InvalidImageName", 'Failed to apply default image tag "x:Y:z": invalid reference format'),
            [],
            "ImagePullBackOff",
            "Pod web-1: container app: image example.org/shop:bad cannot be pulled: "
            'Failed to apply default image tag "x:Y:z": invalid reference format',
            id="image with a name that is none",
        ),
        pytest.param(
            crashing(1),
            [],
            "CrashLoopBackOff",
            "Pod web-1: container app ends again and again: exit code 1; look at its log",
            id="crash loop",
        ),
        pytest.param(
            crashing(137, "OOMKilled"),
            [],
            "CrashLoopBackOff",
            "Pod web-1: container app ends again and again: "
            "exit code 137 (OOMKilled: it needs more memory than its limit)",
            id="out of memory",
        ),
        pytest.param(
            crashing(127, "ContainerCannotRun"),
            [],
            "CrashLoopBackOff",
            "Pod web-1: container app ends again and again: "
            "exit code 127 (ContainerCannotRun, its command was not found); look at its log",
            id="no such command",
        ),
        pytest.param(
            crashing(137),
            [event("web-1", "Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 500")],
            "CrashLoopBackOff",
            "Pod web-1: container app ends again and again: exit code 137 (it was killed); look at its log; "
            "Liveness probe failed: HTTP probe failed with statuscode: 500",
            id="killed by its liveness probe",
        ),
        pytest.param(
            crashing(1)
            .replace("{waiting: {reason: CrashLoopBackOff", "{running: {startedAt: x")
            .replace(', message: "back-off 2m40s restarting failed container"', ""),
            [],
            "CrashLoopBackOff",
            "Pod web-1: container app ends again and again: exit code 1; look at its log",
            id="crash loop, running just now",
        ),
        pytest.param(
            "{phase: Failed, containerStatuses: [{name: app, state: {terminated: {exitCode: 2, reason: Error}}}]}",
            [],
            "ContainerFailed",
            "Pod web-1: container app ended: exit code 2; look at its log",
            id="a Job's Pod",
        ),
        pytest.param(
            "{phase: Failed, reason: Evicted, message: 'The node was low on resource: memory.'}",
            [],
            "Evicted",
            "Pod web-1: Evicted: The node was low on resource: memory.",
            id="evicted",
        ),
        pytest.param(
            UNSCHEDULABLE,
            [],
            "Unschedulable",
            "Pod web-1: no node takes it: 0/3 nodes are available: 3 Insufficient cpu.",
            id="unschedulable",
        ),
        pytest.param(
            """
            phase: Pending
            containerStatuses:
            - {name: app, state: {waiting: {reason: CreateContainerConfigError, message: 'secret "db" not found'}}}
            """,
            [],
            "CreateContainerConfigError",
            'Pod web-1: container app cannot start: secret "db" not found',
            id="secret is missing",
        ),
        pytest.param(
            """
            phase: Pending
            initContainerStatuses:
            - {name: migrate, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}},
               lastState: {terminated: {exitCode: 3, reason: Error}}}
            containerStatuses: [{name: app, state: {waiting: {reason: PodInitializing}}}]
            """,
            [],
            "CrashLoopBackOff",
            "Pod web-1: init container migrate ends again and again: exit code 3; look at its log",
            id="init container",
        ),
        pytest.param(
            "{phase: Pending, containerStatuses: [{name: app, state: {waiting: {reason: ContainerCreating}}}]}",
            [
                event("web-1", "Scheduled", "Successfully assigned shop/web-1 to node", at="2026-01-01T00:00:09Z"),
                event("web-1", "FailedMount", 'MountVolume.SetUp failed for volume "c" : configmap "c" not found'),
            ],
            "FailedMount",
            'Pod web-1: MountVolume.SetUp failed for volume "c" : configmap "c" not found',
            id="volume",
        ),
        pytest.param(
            NOT_READY,
            [
                event("web-1", "Unhealthy", "Readiness probe failed: old", at="2026-01-01T00:00:01Z"),
                event(
                    "web-1",
                    "Unhealthy",
                    "Readiness probe failed: connection refused",
                    at="2026-01-01T00:00:05Z",
                    path="spec.containers{app}",
                ),
            ],
            "ProbeFailed",
            "Pod web-1: container app: Readiness probe failed: connection refused",
            id="probe",
        ),
        pytest.param(
            """
            phase: Running
            conditions:
            - {type: Ready, status: "False", reason: ReadinessGatesNotReady, message: 'corresponding condition of pod
               readiness gate "lb" does not exist.'}
            containerStatuses: [{name: app, ready: true, state: {running: {}}}]
            """,
            [],
            "ReadinessGate",
            'Pod web-1: corresponding condition of pod readiness gate "lb" does not exist.',
            id="readiness gate",
        ),
    ],
)
def test_one_pod(status: str, events: list[dict[str, Any]], reason: str, message: str) -> None:
    assert explain([pod(status)], events, wanted=1) == (reason, message)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(READY, id="ready, whatever was before"),
        pytest.param("{phase: Succeeded}", id="done"),
        pytest.param("{phase: Pending}", id="new"),
        pytest.param("{}", id="not seen by anybody"),
        pytest.param("null", id="no status"),
        pytest.param(NOT_READY, id="not ready, and nothing says why"),
        pytest.param("{phase: 3, conditions: x, containerStatuses: [1, {state: 5}, {}]}", id="nonsense"),
    ],
)
def test_nothing_is_said_without_a_reason(status: str) -> None:
    assert explain([pod(status)], [], wanted=1) is None


def test_a_pod_that_is_going_tells_nothing() -> None:
    going = pod(crashing(1))
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert explain([going], []) is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(
            'Error creating: pods "web-x" is forbidden: exceeded quota: cpu, requested: cpu=2, used: cpu=9',
            "QuotaExceeded",
            id="quota",
        ),
        pytest.param(
            'Error creating: admission webhook "policy.example.org" denied the request: no latest tags',
            "AdmissionRefused",
            id="admission webhook",
        ),
        pytest.param(
            'Error creating: pods "web-x" is forbidden: violates PodSecurity "restricted:latest": privileged',
            "AdmissionRefused",
            id="pod security",
        ),
        pytest.param(
            'Error creating: pods "web-x" is forbidden: error looking up service account shop/web: not found',
            "FailedCreate",
            id="service account",
        ),
    ],
)
def test_pods_that_cannot_be_made(message: str, reason: str) -> None:
    told = explain([], [event("replica-set", "FailedCreate", message)], wanted=3)
    said = message.removeprefix("Error creating: ")
    assert told == (reason, f"3 of 3 Pods cannot be created: {said}")


def test_an_old_refusal_says_nothing_when_all_pods_are_there() -> None:
    events = [event("replica-set", "FailedCreate", "Error creating: exceeded quota")]
    assert explain([pod(READY)], events, wanted=1) is None


def test_pods_are_counted_and_what_most_have_comes_first() -> None:
    pods = [
        pod(crashing(1), "web-1"),
        pod(pulling("ErrImagePull", "not found"), "web-2"),
        pod(pulling("ImagePullBackOff", "not found"), "web-3"),
        pod(READY, "web-4"),
    ]
    told = explain(pods, [event("set", "FailedCreate", "Error creating: exceeded quota: q")], wanted=5)
    assert told is not None
    assert told[0] == "ImagePullBackOff"
    assert told[1] == (
        "2 of 4 Pods (as web-2): container app: image example.org/shop:bad cannot be pulled: not found; "
        "1 of 4 Pods (as web-1): container app ends again and again: exit code 1; look at its log; "
        "1 of 5 Pods cannot be created: exceeded quota: q"
    )


def test_probes_of_many_pods_are_one_reason_whatever_their_addresses() -> None:
    pods = [pod(NOT_READY, f"web-{number}") for number in range(3)]
    events = [
        event(f"web-{number}", "Unhealthy", f'Readiness probe failed: Get "http://10.0.0.{number}/": refused')
        for number in range(3)
    ]
    told = explain(pods, events, wanted=3)
    assert told is not None
    assert told[1] == '3 of 3 Pods (as web-0): container app: Readiness probe failed: Get "http://10.0.0.0/": refused'


def test_what_a_container_left_behind_is_never_told() -> None:
    told = explain([pod(crashing(1))], [])
    assert told is not None
    assert "hunter2" not in told[1]


def test_messages_are_bounded_and_of_one_line() -> None:
    told = explain([pod(UNSCHEDULABLE.replace("0/3", "a\\nb " + "x" * 5000))], [])
    assert told is not None
    assert len(told[1]) == LONGEST
    assert "\n" not in told[1]


def test_a_claim_says_its_newest_event() -> None:
    events = [
        event("c", "ProvisioningFailed", 'storageclass "fast" not found', at="2026-01-01T00:00:05Z"),
        event("c", "WaitForFirstConsumer", "waiting for first consumer", at="2026-01-01T00:00:01Z"),
    ]
    assert explain_claim(events) == ("ProvisioningFailed", 'is not bound: storageclass "fast" not found')
    assert explain_claim([]) is None

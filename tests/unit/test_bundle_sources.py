"""Where a bundle says that its sources are."""

import pytest

from hub.model import Bundle, Finding, GitSource, HelmSource, OciSource
from hub.repo import fleet
from proto.ids import BundleName

BUNDLE = """\
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: shop}
spec:
  targets: {}
  source: """
PLACE = "bundles/shop/bundle.yaml"
COMMIT, DIGEST = "a" * 40, "sha256:" + "b" * 64


def loaded(source: str, **files: str) -> tuple[Bundle | None, list[Finding]]:
    texts = {PLACE: BUNDLE + source + "\n", **{path.replace("_", "."): text for path, text in files.items()}}
    found = fleet.load({path: text.encode() for path, text in texts.items()})
    errors = [finding for finding in found.findings if finding.severity == "error"]
    return found.bundles.get(BundleName("shop")), errors


@pytest.mark.parametrize(
    ("text", "external", "path"),
    [
        pytest.param(
            "{git: {url: git@git.example.org:team/app.git, tag: ~1.4, path: deploy/prod/, credentials: team-a}}",
            GitSource(
                url="ssh://git@git.example.org/team/app.git", tag="~1.4", path="deploy/prod", credentials="team-a"
            ),
            "external/deploy/prod",
            id="git-tag",
        ),
        pytest.param(
            "{git: {url: https://Git.example.org/app.git/, branch: main}}",
            GitSource(url="https://git.example.org/app.git", branch="main"),
            "external",
            id="git-branch",
        ),
        pytest.param(
            f"{{git: {{url: https://git.example.org/app.git, commit: {COMMIT}, path: .}}}}",
            GitSource(url="https://git.example.org/app.git", commit=COMMIT),
            "external",
            id="git-commit",
        ),
        pytest.param(
            '{helm: {repository: https://charts.example.org/, chart: ingress-nginx, version: "^4.11"}}',
            HelmSource(repository="https://charts.example.org", chart="ingress-nginx", version="^4.11"),
            "external",
            id="helm",
        ),
        pytest.param(
            '{oci: {url: oci://registry.example.org/team/app, tag: ">=1.2 <2", path: deploy}}',
            OciSource(url="oci://registry.example.org/team/app", tag=">=1.2 <2", path="deploy"),
            "external/deploy",
            id="oci-range",
        ),
        pytest.param(
            f"{{oci: {{url: oci://registry.example.org/team/app, digest: '{DIGEST}'}}}}",
            OciSource(url="oci://registry.example.org/team/app", digest=DIGEST),
            "external",
            id="oci-digest",
        ),
    ],
)
def test_a_source_outside_the_fleet_repo_is_read(text: str, external: object, path: str) -> None:
    bundle, errors = loaded(text)
    assert errors == []
    assert bundle is not None
    assert (bundle.external, bundle.source, bundle.interval_s) == (external, path, 0.0)


def test_a_chart_of_its_own_names_credentials_for_what_it_depends_on() -> None:
    bundle, errors = loaded("{path: chart, credentials: team-a}")
    assert errors == []
    assert bundle is not None
    assert (bundle.source, bundle.external, bundle.chart_credentials) == ("chart", None, "team-a")
    bundle, errors = loaded("{credentials: team-a}")
    assert (errors, bundle and bundle.chart_credentials) == ([], "team-a")


def test_credentials_beside_a_source_from_outside_are_told() -> None:
    _, [error] = loaded("{git: {url: https://git.example.org/app.git, branch: main}, credentials: team-a}")
    assert "stands beside git" in error.message
    assert error.remedy == "write it into git"


def test_an_interval_is_when_to_look_again() -> None:
    bundle, errors = loaded("{git: {url: https://git.example.org/a.git, branch: main, interval: 10m}}")
    assert errors == []
    assert bundle is not None
    assert bundle.interval_s == 600.0


GIT = "url: https://git.example.org/a.git"
OCI = "url: oci://registry.example.org/a"
HELM = "repository: https://charts.example.org, chart: a, version: 1.0.0"
WRONG = [
    (f"{{path: ., git: {{{GIT}, branch: main}}}}", "spec.source.git stands beside path", "keep one"),
    (f"{{git: {{{GIT}, branch: main}}, helm: {{{HELM}}}}}", "spec.source.helm stands beside git", "keep one"),
    (f"{{git: {{{GIT}}}}}", "spec.source.git needs one of branch, tag, commit", "which state"),
    (f"{{git: {{{GIT}, branch: main, tag: v1}}}}", "spec.source.git.tag stands beside branch", "keep one"),
    (f"{{git: {{{GIT}, branch: main, comit: {COMMIT}}}}}", "spec.source.git.comit is not a known field", "'commit'"),
    (f"{{git: {{{GIT}, commit: abc}}}}", "spec.source.git.commit is 'abc'", "40 hex"),
    (f"{{git: {{{GIT}, branch: main, path: ../x}}}}", "spec.source.git.path is '../x'", "folder of the source"),
    (f"{{git: {{{GIT}, branch: main, path: /x}}}}", "spec.source.git.path is '/x'", "folder of the source"),
    (f"{{git: {{{GIT}, branch: main, interval: 10s}}}}", "spec.source.git.interval", ""),
    (f"{{git: {{{GIT}, commit: {COMMIT}, interval: 10m}}}}", "interval means nothing for what never", "remove it"),
    (f"{{git: {{{GIT}, branch: main, credentials: Team A}}}}", "'Team A' is not a valid name", ""),
    ("{git: {branch: main}}", "spec.source.git.url is missing", "https://git"),
    ("{git: {url: 'https://me:secret@git.example.org/a', branch: main}}", "has a user or password", "credentials"),
    ("{git: {url: 'ext::sh -c id', branch: main}}", "is not an address", "https://"),
    ("{git: {url: ../other, branch: main}}", "is not an address", "https://"),
    ("{helm: {repository: https://charts.example.org, chart: a}}", "spec.source.helm.version is missing", "4.11"),
    ("{helm: {repository: https://x.example.org, chart: ../a, version: 1.0.0}}", "helm.chart is '../a'", ""),
    ("{helm: {repository: https://x.example.org, chart: a, version: 1.0/../2}}", "helm.version is '1.0/../2'", ""),
    ("{helm: {repository: oci://registry.example.org/a, chart: a, version: 1.0.0}}", "is an OCI registry", "oci:"),
    (f"{{oci: {{{OCI}}}}}", "spec.source.oci needs one of tag, digest", "which state"),
    (f"{{oci: {{{OCI}, digest: 'sha256:abc'}}}}", "spec.source.oci.digest is 'sha256:abc'", "64 hex"),
    (f"{{oci: {{{OCI}, tag: a/b}}}}", "spec.source.oci.tag is 'a/b'", "1.4.0"),
    ("{oci: {url: https://registry.example.org/a, tag: v1}}", "is not an address", "oci://"),
    ("{oci: {url: oci://registry.example.org, tag: v1}}", "has no repository", "oci://registry.example.org/team"),
    ("{gti: {}}", "spec.source.gti is not a known field", "'git'"),
]


@pytest.mark.parametrize(("text", "message", "remedy"), WRONG, ids=[message for _, message, _ in WRONG])
def test_a_source_that_is_wrong_is_told_at_its_line(text: str, message: str, remedy: str) -> None:
    _, errors = loaded(text)
    assert len(errors) == 1, [str(error) for error in errors]
    assert errors[0].where == f"{PLACE}:6"
    assert message in errors[0].message
    assert remedy in errors[0].remedy
    assert "secret" not in str(errors[0])


TENANT = """\
apiVersion: flotilla.dev/v1alpha1
kind: Fleet
spec:
  tenants:
  - {name: team-a, folder: bundles/shop, sources: [https://git.example.org/team-a, 'oci://registry.example.org']}
"""


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        pytest.param("{git: {url: https://git.example.org/team-a/app.git, branch: main}}", True, id="below"),
        pytest.param("{git: {url: https://git.example.org/team-ab/app.git, branch: main}}", False, id="beside"),
        pytest.param("{git: {url: git@git.example.org:team-a/app.git, branch: main}}", False, id="other-scheme"),
        pytest.param("{oci: {url: oci://registry.example.org/a, tag: v1}}", True, id="host"),
        pytest.param(f"{{helm: {{{HELM}}}}}", False, id="helm"),
        pytest.param("{path: .}", True, id="own-folder"),
    ],
)
def test_a_tenants_bundles_fetch_only_from_where_it_may(source: str, *, allowed: bool) -> None:
    _, errors = loaded(source, fleet_yaml=TENANT)
    assert (errors == []) is allowed
    if not allowed:
        assert "spec.source: tenant team-a may not fetch from" in errors[0].message
        assert "https://git.example.org/team-a" in errors[0].remedy


def test_a_tenants_sources_are_addresses() -> None:
    _, errors = loaded("{path: .}", fleet_yaml=TENANT.replace("https://git.example.org/team-a", "'*'"))
    assert "spec.tenants[0].sources[0]" in errors[0].message

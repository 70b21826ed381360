"""What files of a bundle mention, so that clusters share renders."""

from pathlib import Path

import pytest

from hub.repo import reading, references, sources

HEAD = "apiVersion: flotilla.dev/v1alpha1\n"
BUNDLE = (
    f"{HEAD}kind: Bundle\nmetadata: {{name: shop}}\nspec: {{targets: {{}}, helm: {{values: {{a: '${{size}}'}}}}}}\n"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a: ${domain} ${size:-3} $${escaped} ${cut%%x}", {"domain", "size", "escaped", "cut"}, id="forms"),
        pytest.param("${cluster.name} ${cluster.labels.example.org/tier:-x}", None, id="of the cluster"),
        pytest.param("$(X) $Y {{ .Z }} ${1} ${} $ {a}", set(), id="nothing"),
        pytest.param('{"a": "\\u0024{x}"}', {"*"}, id="a dollar in JSON's escape"),
        pytest.param('a: "\\x24{x} ${y}"', {"*", "y"}, id="a dollar in YAML's escape"),
        pytest.param('a: "$\\u007Bx}"', {"*"}, id="a brace in an escape"),
        pytest.param("\xff\xfe ${x}", {"x"}, id="bytes"),
    ],
)
def test_what_a_text_mentions(text: str, expected: set[str] | None) -> None:
    wanted = {"cluster.name", "cluster.labels.example.org/tier"} if expected is None else expected
    assert references.mentioned([text.encode("latin-1")]) == wanted


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_text_in_another_encoding_that_kubectl_reads_mentions_the_same(encoding: str) -> None:
    assert references.mentioned(["a: ${domain}".encode(encoding)]) == {"domain"}


def test_every_file_of_the_folder_counts_and_none_of_others(tmp_path: Path) -> None:
    for path, text in {
        "bundles/shop/bundle.yaml": BUNDLE,
        "bundles/shop/deep/er/values.txt": "${domain}",
        "bundles/other/a.yaml": "${other}",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    fleet, _ = reading.read(sources.FolderTree(tmp_path))
    (shop,) = fleet.bundles.values()
    assert shop.mentions == {"size", "domain"}
    (tmp_path / "bundles/shop/deep/er/values.txt").write_text("${changed}")
    fleet, _ = reading.read(sources.FolderTree(tmp_path))
    assert [bundle.mentions for bundle in fleet.bundles.values()] == [{"size", "changed"}]


GIT = "source: {git: {url: https://example.org/x, branch: main}}"
CHART = "source: {helm: {repository: https://example.org/charts, chart: x, version: 1.2.3}}"


@pytest.mark.parametrize(
    ("spec", "every"),
    [
        pytest.param(GIT, True, id="a folder: nobody knows what it mentions"),
        pytest.param(f"{GIT}, helm: {{values: {{a: 1}}}}", False, id="a folder that is a chart"),
        pytest.param(CHART, False, id="a chart, whose templates have their own"),
        pytest.param(f"{CHART}, helm: {{valuesFiles: [mine.yaml]}}", False, id="with values of the bundle"),
        pytest.param(f"{CHART}, helm: {{valuesFiles: [external/values.yaml]}}", True, id="with values of the chart"),
        pytest.param(f"{CHART}, kustomize: {{path: overlay}}", True, id="with an overlay, which may take more of it"),
        pytest.param(f"{CHART}, variants: [{{when: {{}}, kustomize: {{path: overlay}}}}]", True, id="of a variant"),
        pytest.param(f"{CHART}, patches: [{{path: external/p.yaml, target: {{kind: X}}}}]", True, id="with its patch"),
    ],
)
def test_a_source_from_outside_mentions_everything_unless_it_is_a_chart(tmp_path: Path, spec: str, every: bool) -> None:
    (tmp_path / "bundles/shop").mkdir(parents=True)
    spec = f"{{targets: {{}}, variables: {{a: '${{size}}'}}, {spec}}}"
    text = f"{HEAD}kind: Bundle\nmetadata: {{name: shop}}\nspec: {spec}\n"
    (tmp_path / "bundles/shop/bundle.yaml").write_text(text)
    fleet, _ = reading.read(sources.FolderTree(tmp_path))
    assert fleet.findings == ()
    assert [bundle.mentions for bundle in fleet.bundles.values()] == [{"size", references.EVERY} if every else {"size"}]

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


def test_of_a_source_from_outside_nobody_knows_what_it_mentions(tmp_path: Path) -> None:
    text = BUNDLE.replace("helm:", "source: {git: {url: https://example.org/x, branch: main}}, helm:")
    (tmp_path / "bundles/shop").mkdir(parents=True)
    (tmp_path / "bundles/shop/bundle.yaml").write_text(text)
    fleet, _ = reading.read(sources.FolderTree(tmp_path))
    assert [bundle.mentions for bundle in fleet.bundles.values()] == [{"size", references.EVERY}]

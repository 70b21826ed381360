"""Ranges of versions: each expected value is what Helm's own code says, which the last tests ask for."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.repo import versions
from proto.errors import InvalidInput

ALL = (
    "0.0.1",
    "0.0.3",
    "0.2.3",
    "0.2.9",
    "0.3.0",
    "1.0.0",
    "1.2.0",
    "1.2.3",
    "1.2.10",
    "1.3.0-rc.1",
    "2.0.0",
    "3.0.0-a",
)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param("1.2.3", "1.2.3", id="exact"),
        pytest.param("v1.2.3", "1.2.3", id="a leading v makes no difference"),
        pytest.param("1.2.3+build.7", "1.2.3", id="nor does build metadata"),
        pytest.param("1.2", "1.2.10", id="partial"),
        pytest.param("1.x", "1.2.10", id="wildcard"),
        pytest.param("*", "2.0.0", id="any, and no pre-release"),
        pytest.param("*-0", "3.0.0-a", id="any, with pre-releases"),
        pytest.param("~1.2.3", "1.2.10", id="tilde"),
        pytest.param("~>0.2", "0.2.9", id="tilde with a bracket"),
        pytest.param("^1.0.0", "1.2.10", id="caret"),
        pytest.param("^0.2.3", "0.2.9", id="caret below 1"),
        pytest.param("^0.0.1", "0.0.1", id="caret below 0.1"),
        pytest.param(">0.2", "2.0.0", id="greater than a partial"),
        pytest.param("<1", "0.3.0", id="less"),
        pytest.param("<=0", "0.3.0", id="at most a partial"),
        pytest.param(">=1.0, <2", "1.2.10", id="comma"),
        pytest.param(">=1.0 <1.2.10", "1.2.3", id="space"),
        pytest.param(">=1.0, !=1.2.10, <2", "1.2.3", id="not equal"),
        pytest.param("0.1 - 1.2.3", "1.2.3", id="hyphen"),
        pytest.param("0.1 - 1.2", "1.2.10", id="hyphen to a partial"),
        pytest.param("5 || ~0.2", "0.2.9", id="or"),
        pytest.param(">=1.2, <2-0", "1.3.0-rc.1", id="one names a pre-release, so all of it may be one"),
        pytest.param("~1.3.0-0", "1.3.0-rc.1", id="a pre-release that is named"),
        pytest.param("4", None, id="none"),
    ],
)
def test_the_newest_version_of_a_range_is_found(asked: str, found: str | None) -> None:
    assert versions.newest(asked, ALL) == found
    assert versions.newest(asked, reversed(ALL)) == found


def test_versions_are_ordered_as_semver_says() -> None:
    words = ["alpha", "alpha.1", "alpha.beta", "beta", "beta.2", "beta.11", "rc.1"]
    rising = [*(f"1.0.0-{pre}" for pre in ["1", "2", "11", *words]), "1.0.0", "1.0.1", "1.1.0"]
    for index in range(1, len(rising) + 1):
        assert versions.newest("*-0", rising[:index]) == rising[index - 1]


def test_what_is_written_just_like_the_range_comes_first() -> None:
    assert versions.newest("1.2", ["1.2.9", "1.2"]) == "1.2"
    assert versions.newest("1.0.0", ["1.0.0+a", "1.0.0", "1.0.0+b"]) == "1.0.0"


def test_of_equal_versions_the_same_is_found_whatever_their_order() -> None:
    among = ["1.0.0+b", "v1.0.0", "1.0.0+a"]
    assert versions.newest("1.x", among) == versions.newest("1.x", among[::-1]) == "v1.0.0"


def test_what_is_no_version_is_passed_over() -> None:
    assert versions.newest("*", ["latest", "", "1.2.3.4", "1.0.0-01", "main", "٣.0.0", "1" * 300, "1.0.0"]) == "1.0.0"


@pytest.mark.parametrize(
    "text",
    ["", " ", "latest", "1..2", "~", ">", "1.2.3 -", "1,,2", "||", "1 ||", "1 | 2", "1.2.3-01", "=" * 300, "٣.x"],
)
def test_what_is_no_range_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a version or a range of versions"):
        versions.newest(text, ALL)


@pytest.mark.parametrize("text", ["~1.2", "^1", "1.x", "*", ">=1", "1.0.0 - 2.0.0", "1 || 2", ">=1.0, <2", "=1.2.3"])
def test_a_range_is_known_as_one(text: str) -> None:
    assert versions.is_range(text)


@pytest.mark.parametrize("text", ["1.2.3", "v1.2.3", "1.2", "7", "latest", "x", "main", "v1.2.3-rc.1", "release-1", ""])
def test_what_may_be_a_name_is_not_taken_for_a_range(text: str) -> None:
    assert not versions.is_range(text)


@pytest.fixture(scope="module")
def helm_says(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], bool | None]:
    """Whether a version is in a range by `semverCompare` of Helm's templates; None when one of them is not valid."""
    from helm_python.chart import Chart
    from helm_python.errors import HelmError

    folder: Path = tmp_path_factory.mktemp("chart")
    (folder / "templates").mkdir()
    (folder / "Chart.yaml").write_text("apiVersion: v2\nname: asks\nversion: 1.0.0\n")
    (folder / "templates/answer.yaml").write_text("{{ semverCompare .Values.range .Values.version }}")
    chart = Chart.load(folder)

    def ask(range: str, version: str) -> bool | None:
        try:
            (answer,) = chart.render({"range": range, "version": version}).values()
        except HelmError:
            return None
        return bool(answer == "true")

    return ask


OPERATORS = ("", "=", "!=", ">", "<", ">=", "=>", "<=", "=<", "~", "~>", "^")
STATED: tuple[str, ...] = ("0",)
STATED += ("0.0", "0.0.0", "0.0.3", "0.2.3", "1", "1.2", "1.2.3", "v1.2.3", "*", "1.x", "1.2.*", "1.x.3", "0.x")
STATED += ("1.2.3-0", "1.2.3-beta.2", "1-0", "1.2-beta", "*-0", "1.2.3+b", "01.2", "1.2.3-01", "X.1")
ASKED = (*ALL, "1.2.3-beta.1", "1.2.3-beta.11", "1.2.3-rc", "v1.2.3", "1.2.3+x", "1.2", "11.1.0", "1.2.3-01", "a.b")


def check(range: str, helm_says: Callable[[str, str], bool | None]) -> None:
    for version in ASKED:
        try:
            found = versions.newest(range, [version]) is not None
        except InvalidInput:
            assert helm_says(range, "1.0.0") is None, f"Helm reads {range!r}"
            return
        if version != range:
            assert found == (helm_says(range, version) or False), f"{version} in {range!r}"


@pytest.mark.parametrize("operator", OPERATORS)
def test_each_operator_means_what_it_means_to_helm(operator: str, helm_says: Callable[[str, str], bool | None]) -> None:
    for stated in STATED:
        check(operator + stated, helm_says)


def test_ranges_put_together_mean_what_they_mean_to_helm(helm_says: Callable[[str, str], bool | None]) -> None:
    chance = random.Random(6)
    for _ in range(100):
        text = chance.choice(OPERATORS) + chance.choice(STATED)
        for _ in range(chance.randint(1, 2)):
            text += chance.choice([" ", ",", " , ", " || ", "||", " - ", "-", "|"])
            text += chance.choice(OPERATORS) + chance.choice(["", " "]) + chance.choice(STATED)
        check(text, helm_says)

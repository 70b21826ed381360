"""`flotilla init`: what it writes is a valid fleet repo in Git, and it overwrites nothing."""

from pathlib import Path

import pygit2
import pytest
import yaml
from click.testing import CliRunner, Result

from hub.cli import main


def flotilla(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_the_first_fleet_is_valid_committed_and_renders(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    done = flotilla("init", str(fleet), "--cluster", "eu-1")
    assert done.exit_code == 0, done.output
    checked = flotilla("check", "--fleet", str(fleet))
    assert (checked.exit_code, checked.output) == (0, "1 cluster, 1 bundle, 0 errors\n")
    rendered = flotilla("render", "--fleet", str(fleet), "--cluster", "eu-1")
    assert "greeting: hello from eu-1.example.org" in rendered.output
    repo = pygit2.Repository(str(fleet))
    assert repo.head.shorthand == "main"
    assert repo.status() == {}
    assert f"flotilla-hub --fleet {fleet}" in done.output


def test_what_the_first_fleet_suggests_can_be_had_by_taking_the_marks_away(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    flotilla("init", str(fleet))
    for name in ("fleet.yaml", "rollouts/careful.yaml"):
        file = fleet / name
        file.write_text(file.read_text().replace("#-", ""))
    found = yaml.safe_load((fleet / "rollouts/careful.yaml").read_text())["spec"]
    assert [next(iter(gate)) for gate in found["waves"][1]["gates"]] == ["approval", "http", "metric"]
    assert found["windows"]
    assert yaml.safe_load((fleet / "fleet.yaml").read_text())["spec"]["freezes"]
    checked = flotilla("check", "--fleet", str(fleet))
    assert (checked.exit_code, checked.output) == (0, "1 cluster, 1 bundle, 0 errors\n")


def test_a_second_time_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    flotilla("init", str(tmp_path / "fleet"))
    (tmp_path / "fleet/bundles/hello/hello.yaml").write_text("mine")
    done = flotilla("init", str(tmp_path / "fleet"))
    assert done.exit_code == 1
    assert "fleet.yaml" in done.output
    assert (tmp_path / "fleet/bundles/hello/hello.yaml").read_text() == "mine"


def test_in_somebodys_repository_committing_is_left_to_them(tmp_path: Path) -> None:
    repo = pygit2.init_repository(str(tmp_path))
    done = flotilla("init", str(tmp_path / "fleet"))
    assert done.exit_code == 0, done.output
    assert repo.head_is_unborn
    assert not (tmp_path / "fleet/.git").exists()
    assert "git -C" in done.output


@pytest.mark.parametrize("name", [pytest.param("Eu_1", id="upper case"), pytest.param("../up", id="a path")])
def test_a_name_that_no_cluster_can_have_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    done = flotilla("init", str(tmp_path / "fleet"), "--cluster", name)
    assert done.exit_code == 1
    assert not (tmp_path / "fleet").exists()

"""Commands on a checkout whose bundles have sources from outside: what is fetched, cached and told."""

import shutil
from pathlib import Path

import pygit2
import pytest
from click.testing import CliRunner, Result

from hub.cli import main, outside
from tests.served import WHO, Repo, Served, basic

CLUSTER = "apiVersion: flotilla.dev/v1alpha1\nkind: Cluster\nmetadata: {name: eu-1}\nspec: {}\n"


def config(text: str) -> str:
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{text: '{text}'}}\n"


class Checkout:
    def __init__(self, folder: Path, served: Served) -> None:
        self.folder, self.served = folder, served
        self.repo = pygit2.init_repository(str(folder), initial_head="main")
        self.write("clusters/eu.yaml", CLUSTER)
        self.bundle("{git: {url: URL/app.git, branch: main}}")

    def write(self, path: str, text: str) -> None:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def bundle(self, source: str, *, namespace: str = "shop") -> None:
        head = "apiVersion: flotilla.dev/v1alpha1\nkind: Bundle\nmetadata: {name: shop}\nspec:\n  targets: {}\n"
        source = source.replace("URL", self.served.url)
        self.write("bundles/shop/bundle.yaml", f"{head}  namespace: {namespace}\n  source: {source}\n")

    def commit(self) -> None:
        index = self.repo.index
        index.add_all()
        tip = self.repo.references.get("refs/heads/main")
        parents = [tip.target] if tip is not None else []
        self.repo.create_commit("refs/heads/main", WHO, WHO, "m", index.write_tree(), parents)

    def run(self, *arguments: str) -> Result:
        command, *rest = arguments
        self.served.heard.clear()
        return CliRunner().invoke(main, [command, "--fleet", str(self.folder), *rest], catch_exceptions=False)


@pytest.fixture
def checkout(tmp_path: Path, repo: Repo, served: Served, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Checkout(tmp_path / "fleet", served)


def test_render_fetches_once_says_what_it_took_and_stays_with_it(repo: Repo, checkout: Checkout) -> None:
    first = repo.commit({"a.yaml": config("one")})
    for again in (False, True):
        made = checkout.run("render", "--cluster", "eu-1")
        assert made.exit_code == 0
        assert 'text: "one"' in made.stdout or "text: one" in made.stdout
        assert f"bundle shop: {checkout.served.url}/app.git is main@{first}" in made.stderr
        assert bool(checkout.served.heard) is not again
        repo.commit({"a.yaml": config("two")})


def test_an_old_answer_is_asked_for_anew_and_stands_when_nobody_answers(
    repo: Repo, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit({"a.yaml": config("one")})
    checkout.run("check")
    monkeypatch.setattr(outside, "FRESH_S", 0.0)
    checkout.served.down = True
    late = checkout.run("check")
    assert (late.exit_code, "what the cache has is used: Git repository" in late.stdout) == (0, True)
    checkout.served.down = False
    repo.commit({"a.yaml": config("two")})
    assert "two" in checkout.run("render", "--cluster", "eu-1").stdout


def test_offline_asks_nobody(repo: Repo, checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "FRESH_S", 0.0)
    repo.commit({"a.yaml": config("one")})
    refused = checkout.run("check", "--offline")
    assert (refused.exit_code, "not in the cache, and --offline" in refused.stdout) == (1, True)
    assert checkout.served.heard == []
    checkout.run("check")
    assert "one" in checkout.run("render", "--cluster", "eu-1", "--offline").stdout
    assert checkout.served.heard == []


def test_without_a_home_only_sources_from_outside_are_missed(
    repo: Repo, checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    refused = checkout.run("check")
    assert (refused.exit_code, "set XDG_CACHE_HOME" in refused.stdout) == (1, True)
    checkout.bundle("{path: .}")
    checkout.write("bundles/shop/a.yaml", config("own"))
    assert checkout.run("check").exit_code == 0


def test_check_tells_a_source_that_cannot_be_had_and_goes_on(repo: Repo, checkout: Checkout) -> None:
    checkout.served.down = True
    checkout.write("bundles/own/bundle.yaml", "{")
    found = checkout.run("check")
    assert found.exit_code == 1
    assert "bundles/shop/bundle.yaml:1: error: bundle shop has no source: Git repository" in found.stdout
    assert "bundles/own/bundle.yaml" in found.stdout


def test_a_diff_has_one_state_of_a_source_on_both_sides(repo: Repo, checkout: Checkout) -> None:
    repo.commit({"a.yaml": config("one")})
    checkout.commit()
    assert checkout.run("diff", "HEAD").exit_code == 0
    checkout.write("bundles/shop/notes.txt", "x")
    assert checkout.run("diff", "HEAD").exit_code == 0
    checkout.bundle("{git: {url: URL/app.git, branch: other}}")
    repo.commit({"a.yaml": config("two")}, branch="other")
    changed = checkout.run("diff", "HEAD")
    assert (changed.exit_code, "one" in changed.stdout, "two" in changed.stdout) == (1, True, True)


def test_explain_names_the_source(repo: Repo, checkout: Checkout) -> None:
    tip = repo.commit({"deploy/a.yaml": config("one")})
    checkout.bundle("{git: {url: URL/app.git, branch: main, path: deploy}}")
    checkout.commit()
    told = checkout.run("explain", "ConfigMap/a", "--cluster", "eu-1")
    assert told.exit_code == 0
    assert f"source   {checkout.served.url}/app.git  (main@{tip})" in told.stdout
    assert "file     bundles/shop/external/deploy/a.yaml" in told.stdout


def test_credentials_are_given_by_option_or_environment(
    repo: Repo, checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit({"a.yaml": config("one")})
    checkout.served.wants = basic("bot", "hunter2")
    checkout.bundle("{git: {url: URL/app.git, branch: main, credentials: team-a}}")
    assert checkout.run("check").exit_code == 1
    file = tmp_path / "credentials.yaml"
    file.write_text(f"team-a: {{for: ['{checkout.served.url}'], username: bot, password: hunter2}}\n")
    told = checkout.run("check", "--source-credentials", str(file))
    assert (told.exit_code, "hunter2" in told.output) == (0, False)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("FLOTILLA_SOURCE_CREDENTIALS", str(file))
    assert checkout.run("check").exit_code == 0

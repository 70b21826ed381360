from pathlib import Path

import pytest

from hub.external import credentials
from proto.errors import InvalidInput

FILE = """\
team-a:
  for: [https://git.example.org/team-a, "oci://registry.example.org/a"]
  tenants: [team-a]
  username: bot
  password: hunter2
  caFile: ca.crt
shared:
  for: [https://charts.example.org]
  token: s3cr3t
deploy:
  for: [git@git.example.org:team-b]
  sshKeyFile: key
  knownHostsFile: known_hosts
"""


def written(folder: Path, text: str = FILE, name: str = "credentials.yaml") -> Path:
    for other in ("ca.crt", "key", "known_hosts"):
        (folder / other).write_text("x")
    (folder / name).write_text(text)
    return folder / name


def test_a_login_is_found_by_name_for_its_addresses(tmp_path: Path) -> None:
    known = credentials.load(written(tmp_path))
    login = known.login("team-a", "https://git.example.org/team-a/app.git", tenant="team-a")
    assert login is not None
    assert (login.username, login.password, login.ca) == ("bot", "hunter2", tmp_path / "ca.crt")
    assert login.is_for("oci://registry.example.org/a/chart")
    deploy = known.login("deploy", "ssh://git@git.example.org/team-b/x.git")
    assert deploy is not None
    assert deploy.ssh_key == tmp_path / "key"
    assert known.login("", "https://git.example.org/x") is None


@pytest.mark.parametrize(
    ("name", "address", "tenant", "why"),
    [
        pytest.param("team-a", "https://evil.example.net/team-a", "team-a", "are not for https://evil", id="host"),
        pytest.param("team-a", "https://git.example.org/team-ab", "team-a", "are not for", id="path"),
        pytest.param("team-a", "http://git.example.org/team-a", "team-a", "are not for", id="plain-http"),
        pytest.param("team-a", "https://git.example.org/team-a/../x", "team-a", "are not for", id="up"),
        pytest.param("team-a", "https://git.example.org/team-a", "team-b", "may be used here", id="tenant"),
        pytest.param("team-a", "https://git.example.org/team-a", "", "may be used here", id="no-tenant"),
        pytest.param("sharde", "https://charts.example.org", "", "did you mean 'shared'?", id="typo"),
    ],
)
def test_a_login_is_refused_elsewhere_and_without_its_values(
    tmp_path: Path, name: str, address: str, tenant: str, why: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        credentials.load(written(tmp_path)).login(name, address, tenant=tenant)
    assert why in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_other_tenants_credentials_are_not_suggested(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refused:
        credentials.load(written(tmp_path)).login("team-b", "https://git.example.org/team-a", tenant="team-b")
    assert "team-a'" not in str(refused.value)


def test_no_representation_has_a_value(tmp_path: Path) -> None:
    shown = repr(credentials.load(written(tmp_path)))
    assert "hunter2" not in shown
    assert "s3cr3t" not in shown


def test_a_folder_is_all_its_files_as_kubernetes_mounts_a_secret(tmp_path: Path) -> None:
    (tmp_path / "..2026").mkdir()
    written(tmp_path / "..2026", "a: {for: [https://a.example.org], token: x}", "a.yaml")
    written(tmp_path / "..2026", '{"b": {"for": ["https://b.example.org"], "token": "y"}}', "b.json")
    (tmp_path / "..data").symlink_to("..2026")
    for name in ("a.yaml", "b.json", "ca.crt"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    assert set(credentials.load(tmp_path).logins) == {"a", "b"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("a: {token: hunter2}", "for is missing", id="for-nobody"),
        pytest.param("a: {for: [], token: hunter2}", "for is missing", id="for-nothing"),
        pytest.param("a: {for: ['*'], token: hunter2}", "fetched from", id="for-everybody"),
        pytest.param("a: {for: [https://x.org], pasword: hunter2}", "did you mean 'password'?", id="typo"),
        pytest.param("a: {for: [https://x.org], username: bot}", "username and password", id="half-password"),
        pytest.param("a: {for: [https://x.org], password: 12345}", "is not a string", id="number"),
        pytest.param("a: {for: [https://x.org], username: b, password: hunter2, token: t}", "token", id="both"),
        pytest.param("a: {for: [ssh://x.org], sshKeyFile: key}", "knownHostsFile", id="half-ssh"),
        pytest.param("a: {for: [https://x.org], caFile: nowhere}", "is not a file", id="no-file"),
        pytest.param("a: hunter2", "has to be a mapping", id="no-mapping"),
        pytest.param("[hunter2]", "has to be a mapping", id="list"),
        pytest.param("a: {for: [https://x.org], password: *hunter2}", "is not valid YAML", id="alias"),
        pytest.param("A_b: {for: [https://x.org], token: hunter2}", "is not a valid name", id="name"),
    ],
)
def test_a_file_that_is_not_as_it_has_to_be_is_refused_without_its_values(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        credentials.load(written(tmp_path, text))
    assert why in str(refused.value)
    assert "hunter2" not in str(refused.value)
    assert "12345" not in str(refused.value)


def test_the_same_name_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        written(tmp_path, "x: {for: [https://a.example.org], token: x}", name)
    with pytest.raises(InvalidInput, match="another file"):
        credentials.load(tmp_path)


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.yaml"):
        with pytest.raises(InvalidInput, match=r"--source-credentials|no \.yaml"):
            credentials.load(path)

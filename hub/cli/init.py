"""`flotilla init`: a first fleet repo for somebody new: one cluster, one bundle, a careful policy, and what to do next.

Nothing that is there already is overwritten. In a folder that belongs to no Git repository a new one is made, with a
first commit; elsewhere committing is left to the person.
"""

from pathlib import Path

import click
import pygit2

from proto.errors import InvalidInput
from proto.ids import check_name

FILES = {
    "fleet.yaml": """\
# Variables for every cluster and bundle; a Cluster or a Bundle may say otherwise.
apiVersion: flotilla.dev/v1alpha1
kind: Fleet
metadata: {name: fleet}
spec:
  variables: {greeting: hello}
  # A freeze binds at once, what is under way too; take the #- away.
  #-freezes:
  #-  - {name: holidays, from: "2030-12-20T18:00", to: "2031-01-04T06:00", zone: Europe/Berlin, reason: nobody is here}
""",
    "clusters/@.yaml": """\
# Labels choose which bundles come here, and in which wave. The first cluster is the canary: it tries everything first.
apiVersion: flotilla.dev/v1alpha1
kind: Cluster
metadata: {name: @, labels: {canary: "true"}}
spec:
  variables: {domain: @.example.org}
""",
    "rollouts/careful.yaml": """\
# How a change travels: the canary first, then everybody else, a quarter at a time. What fails is rolled back wherever
# it came, the last wave first, and its bundle is on hold until the next commit of it. Lines with #- are suggestions:
# take the #- away. Is it slow, or unsafe? Ask: flotilla simulate --policy careful --clusters 100 --bad 10%
apiVersion: flotilla.dev/v1alpha1
kind: RolloutPolicy
metadata: {name: careful}
spec:
  waves:
    - {name: canary, select: {matchLabels: {canary: "true"}}, maxConcurrent: 1, soak: 1m}
    - name: everybody
      select: {}
      maxConcurrent: 25%
      allowEmpty: true
      # Gates: the wave opens when all of them are open.
      #-gates:
      #-  - approval: {approvers: 1, expires: 24h}        # flotilla approve ROLLOUT --reason WHY
      #-  - http: {url: "https://hello.example.org/healthz", for: 5m}
      #-  - metric: {query: 'sum(rate(http_requests_total{code=~"5.."}[5m]))', below: 1, for: 5m}    # hub: --prometheus
  failure: {budget: 0, deadline: 10m, action: rollback}
  offline: {after: 5m, budget: 10%}
  # Windows: nothing starts before a weekend and in it; what is under way goes on, and a rollback waits for nothing.
  #-windows:
  #-  - {deny: "Fri 16:00-Mon 08:00 Europe/Berlin"}
""",
    "bundles/hello/bundle.yaml": """\
# The manifests beside this file go to every cluster that `targets` selects; {} is all of them.
apiVersion: flotilla.dev/v1alpha1
kind: Bundle
metadata: {name: hello}
spec:
  targets: {}
  namespace: hello
  rollout: careful
  drift: {mode: revert}
""",
    "bundles/hello/hello.yaml": """\
apiVersion: v1
kind: Namespace
metadata: {name: hello}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: hello}
data:
  greeting: "${greeting} from ${domain}"
""",
    "README.md": """\
# Our fleet

What every cluster runs. A commit to `main` is all it takes to change one.

    fleet.yaml                  variables for everybody
    clusters/NAME.yaml          one file per cluster: name, labels, variables
    bundles/NAME/bundle.yaml    one folder per deployable unit, with its manifests (YAML, Kustomize or Helm)
    rollouts/careful.yaml       how a change travels: waves, soak, gates, windows, what to do on failure

Before a commit: `flotilla check` (is it valid?), `flotilla render --cluster @` (what would @ run?).
""",
}
"""Path to text; `@` stands for the cluster's name."""


@click.command(
    epilog="""\b
Examples:
  flotilla init                        # here
  flotilla init fleet --cluster eu-1""",
)
@click.argument("folder", metavar="[DIR]", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option("--cluster", default="first", show_default=True, metavar="NAME", help="The name of the first cluster.")
def init(folder: Path, cluster: str) -> None:
    """Write a first fleet repo: a cluster, a bundle, a policy."""
    try:
        check_name("cluster", cluster)
    except InvalidInput as error:
        raise click.ClickException(str(error)) from error
    files = {path.replace("@", cluster): text.replace("@", cluster) for path, text in FILES.items()}
    there = [path for path in files if (folder / path).exists()]
    if there:
        raise click.ClickException(
            f"{folder} has {', '.join(there)} already; nothing was written. Choose a new folder."
        )
    try:
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
            click.echo(f"wrote {folder / path}")
        made = _first_commit(folder, files)
    except (OSError, pygit2.GitError) as error:
        raise click.ClickException(f"{folder}: {error}") from error
    _tell_next(folder, cluster, committed=made)


def _first_commit(folder: Path, files: dict[str, str]) -> bool:
    """False when the folder belongs to a Git repository: its owner commits."""
    if pygit2.discover_repository(str(folder)):
        return False
    repo = pygit2.init_repository(str(folder), initial_head="main")
    for path in files:
        repo.index.add(path)
    repo.index.write()
    try:
        who = repo.default_signature
    except KeyError:
        who = pygit2.Signature("flotilla init", "flotilla@localhost")
    commit = repo.create_commit("HEAD", who, who, "A first fleet", repo.index.write_tree(), [])
    click.echo(f"made a Git repository with a first commit, {str(commit)[:10]} on main")
    return True


def _tell_next(folder: Path, cluster: str, *, committed: bool) -> None:
    steps = [
        f"flotilla check --fleet {folder}",
        f"flotilla render --fleet {folder} --cluster {cluster}",
        *([] if committed else [f"git -C {folder} add -A && git -C {folder} commit -m 'A first fleet'"]),
        f"flotilla-hub --fleet {folder} --data hub-data &",
        f"flotilla join-token {cluster} --token-file hub-data/admin.token > {cluster}.token",
        f"flotilla-agent --hub http://127.0.0.1:8470 --join-token-file {cluster}.token --state-dir agent-{cluster}",
    ]
    click.echo("\nNext:")
    for step in steps:
        click.echo(f"  {step}")


commands: tuple[click.Command, ...] = (init,)

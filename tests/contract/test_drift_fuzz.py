"""Nothing is missed and nothing is false: random edits of every kind, held against a dry run (`tests/fuzz`).

`--fuzz-edits` and `--fuzz-seed` choose more and others; a failure prints the seed, the edit and the object around it.
"""

from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from tests.agents import agent, until
from tests.fuzz import kinds, policies, runner
from tests.fuzz.runner import Admin, Fuzz, Gated
from tests.kube import Kube
from tests.slices import SliceMaker

WORKERS = 4


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    runner.without_pauses(monkeypatch)


@pytest.mark.timeout(7200)
async def test_every_random_edit_is_found_told_and_undone_and_nothing_else(
    kube: Kube, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed = pytestconfig.getoption("--fuzz-seed")
    count = pytestconfig.getoption("--fuzz-edits") or (600 if pytestconfig.getoption("--real") else 150)
    suffix = f"f{uuid4().hex[:6]}"
    namespace = f"fuzz-{suffix}"
    wanted = kinds.slice_objects(namespace, suffix)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(Gated.connect(kube.kubeconfig))
        admin = await stack.enter_async_context(Admin.connect(kube))
        followed = pytestconfig.getoption("--real")
        await stack.enter_async_context(policies.in_play(admin, suffix, followed=followed))
        one = await stack.enter_async_context(agent(api, tmp_path))
        wake = SliceMaker().next({"fuzz": wanted})
        one.deliver(wake)
        await until(
            lambda: "fuzz" in one.told.bundles and one.told.bundles["fuzz"].converged,
            what="the slice",
            timeout_s=60,
        )
        fuzz = Fuzz(api, admin, told=one.told.drift, seed=seed, say=print)
        subjects = [await fuzz.subject(obj, "fuzz") for obj in wanted]
        # What is defined, and its definition, one after the other.
        related = [one for one in subjects if one.custom or one.key.kind == "CustomResourceDefinition"]
        others = [one for one in subjects if one not in related]
        groups = [related, *(others[part :: WORKERS - 1] for part in range(WORKERS - 1))]
        score = await fuzz.run(groups, count)
    print(f"seed {seed}: {score}")
    assert not score.failures, f"{len(score.failures)} wrong (seed {seed}), see above: {dict(score.wrong)}"

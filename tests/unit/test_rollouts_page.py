"""`docs/rollouts.md` against the engine: its diagrams are those of the tables, and it names every verb and check."""

import pytest

from hub.state import VERBS
from tests.tools import diagram

TEXT = diagram.PAGE.read_text()


def test_the_diagrams_are_those_of_the_engine_s_tables() -> None:
    assert diagram.generated(TEXT) == TEXT, "run 'python -m tests.tools.diagram'"


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_to_a_rollout_is_told(verb: str) -> None:
    assert f"`{verb}" in TEXT


def test_a_page_without_a_place_for_a_diagram_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the diagram rollout"):
        diagram.generated("# Rollouts")

"""The table of mutations: every rule has one, and each finds its place in the source. `make mutations` runs them."""

import ast

import pytest

from tests.tools.mutations import MUTATIONS, Mutation


def test_every_rule_of_rollouts_is_broken_by_a_mutation() -> None:
    assert {mutation.rule for mutation in MUTATIONS} == set(range(1, 19))


@pytest.mark.parametrize("mutation", [pytest.param(each, id=each.name) for each in MUTATIONS])
def test_a_mutation_has_its_place_in_the_source_and_is_python(mutation: Mutation) -> None:
    ast.parse(mutation.broken())

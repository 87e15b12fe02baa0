"""A cut that a model does not allow is named with the numbers that would do."""

from __future__ import annotations

from pipesim.workload.load import model_from_catalog
from pipesim.workload.shard import Shard


def paths(model, **ways):
    return [problem.path for problem in Shard(**ways).problems(model_from_catalog(model))]


def test_a_fitting_cut_has_no_problems():
    assert paths("mixtral-8x7b", tensor=8, context=4, expert=8) == []


def test_tensor_parallelism_divides_heads():
    problems = Shard(tensor=10).problems(model_from_catalog("gpt3-175b"))
    assert [problem.path for problem in problems] == ["parallelism.tensor"]
    assert problems[0].allowed is not None
    assert "8, 12" in problems[0].allowed


def test_expert_parallelism_needs_experts_and_divides_them():
    assert paths("gpt3-175b", expert=8) == ["parallelism.expert"]
    assert paths("mixtral-8x7b", expert=3) == ["parallelism.expert"]


def test_context_parallelism_divides_the_sequence():
    assert paths("gpt3-175b", context=3) == ["parallelism.context"]


def test_every_problem_is_reported():
    assert paths("mixtral-8x7b", tensor=5, context=3, expert=3) == [
        "parallelism.tensor",
        "parallelism.expert",
        "parallelism.context",
    ]


def test_experts_are_whole_with_expert_parallelism_and_split_without():
    assert Shard(tensor=4, expert=8).expert_tensor == 1
    assert Shard(tensor=4).expert_tensor == 4

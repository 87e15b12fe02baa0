"""Parameter counts are the published ones."""

from __future__ import annotations

import pytest

from pipesim.workload.load import model_from_catalog
from pipesim.workload.parameters import (
    active_parameters,
    embedding_parameters,
    head_parameters,
    layer_parameters,
    parameters,
)

EXACT = {
    "bert-48": 669_790_012,  # Li and Hoefler 2021, Table 4
    "gpt2-64": 1_389_327_360,  # Li and Hoefler 2021, Table 4
    "llama-2-7b": 6_738_415_616,  # released checkpoints
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3-405b": 405_853_388_800,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
}

# Billions, to the digits printed in arXiv 2205.05198 (first four), arXiv 2104.04473 Table 1, arXiv
# 2412.19437.
PRINTED = {
    "gpt-22b": "22.07", "gpt3-175b": "174.6", "mt-nlg-530b": "529.6", "gpt-1t": "1008",
    "gpt-1.7b": "1.7", "gpt-3.6b": "3.6", "gpt-7.5b": "7.5", "gpt-18b": "18.4", "gpt-39b": "39.1",
    "gpt-76b": "76.1", "gpt-145b": "145.6", "gpt-310b": "310.1", "deepseek-v3": "671.0", "gpt-91b": "91",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(EXACT))
def test_parameters_equal_the_published_count_to_the_unit(name):
    assert parameters(model_from_catalog(name)) == EXACT[name]


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_parameters_round_to_the_printed_billions(name):
    printed = PRINTED[name]
    digits = len(printed.partition(".")[2])
    assert f"{parameters(model_from_catalog(name)) / 1e9:.{digits}f}" == printed


def test_a_gpt_layer_has_12_h_squared_plus_13_h_parameters():
    model = model_from_catalog("gpt3-175b")
    assert layer_parameters(model).total == 12 * 12288**2 + 13 * 12288


def test_deepseek_v3_activates_37_and_a_half_billion_parameters_per_token():
    assert f"{active_parameters(model_from_catalog('deepseek-v3')) / 1e9:.2f}" == "37.55"


def test_tensor_parallelism_divides_matrices_and_replicates_norms_and_row_biases():
    model = model_from_catalog("gpt3-175b")
    h = model.hidden
    # Column biases (3h + 4h) are divided; the row biases (2h) and the norms (4h) are not.
    assert layer_parameters(model).per_gpu(tensor=8) == (12 * h * h + 7 * h) / 8 + 6 * h


def test_expert_parallelism_divides_experts_only():
    model = model_from_catalog("mixtral-8x7b")
    layer = layer_parameters(model, mixture=True)
    assert layer.experts == 8 * 3 * 4096 * 14336
    assert layer.per_gpu(expert=8) == layer.total - layer.experts * 7 / 8


def test_a_tied_head_owns_a_copy_of_the_vocabulary_only_on_a_stage_of_its_own():
    model = model_from_catalog("gpt3-175b")
    assert head_parameters(model).total == 2 * model.hidden
    assert head_parameters(model, own_vocabulary=True).split == embedding_parameters(model).split

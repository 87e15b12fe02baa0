"""Two small configs that are right, for tests to break one thing at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from pipesim.config import load_config
from pipesim.errors import ConfigError, Problem

_ABSTRACT = {
    "pipeline": {"ranks": 4, "microbatches": 8},
    "costs": {"forward": 1, "input_grad": 1, "weight_grad": 1, "p2p": 0},
    "memory": {"activation": 1.0, "weight_grad_share": 0.5},
    "schedule": {"name": "interleaved-1f1b", "chunks": 2},
}
_CLUSTER = {
    "model": "gpt3-175b",
    "cluster": {"gpu": "a100-sxm-80gb", "gpus_per_node": 8, "nodes": 12, "inter_node": "infiniband-hdr"},
    "parallelism": {"pipeline": 12, "tensor": 8, "data": 1},
    "schedule": {"name": "interleaved-1f1b", "chunks": 2},
    "training": {"micro_batch": 1, "global_batch": 1536, "recompute": "selective", "zero": 1},
}


@pytest.fixture
def abstract() -> dict[str, Any]:
    return copy.deepcopy(_ABSTRACT)


@pytest.fixture
def cluster() -> dict[str, Any]:
    return copy.deepcopy(_CLUSTER)


@pytest.fixture
def problems() -> Callable[..., list[Problem]]:
    """Everything that is wrong with a config and overrides."""

    def find(source: Any, *overrides: str) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            load_config(source, overrides)
        return list(caught.value.problems)

    return find

"""What tensor parallelism exchanges, and what of it hides."""

from __future__ import annotations

import pytest

from pipesim.costs.collectives import OVERLAP_PRICE
from pipesim.costs.phases import Phase
from pipesim.costs.tensor import TensorParallel
from pipesim.workload.matrices import Matrix
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training

BLOCK = (Matrix("up", 8, 32, "column"), Matrix("down", 32, 8, "row"))


def exchange(sequence_parallel=True, product_s=1.0, **training):
    """Collectives take a second per byte of 1000 elements, products ``product_s`` each, kernels as long as bytes."""
    return TensorParallel(
        Training(**training),
        Shard(tensor=4, sequence_parallel=sequence_parallel),
        1000.0,
        lambda _, size: Phase(size / 1000, size / 1000),
        lambda matrices, role: Phase(product_s * len(list(matrices))),
        lambda traffic: Phase(traffic.moved_bytes / 1e6),
    )


def test_a_block_gathers_and_scatters_or_reduces():
    assert exchange().around(2) == Phase(8.0, 8.0)
    assert exchange(sequence_parallel=False).around(2) == Phase(4.0, 4.0)


def test_fp8_is_cast_before_it_is_gathered_and_bf16_is_added_up():
    """One byte instead of two; not outside of the layers, where products are in bf16."""
    eighth = exchange(precision="fp8")
    assert eighth.gathered() == Phase(1.0, 1.0)
    assert eighth.reduced() == eighth.gathered_outside() == Phase(2.0, 2.0)


def test_inputs_are_gathered_again_unless_they_are_kept():
    assert exchange(tensor_overlap="none").gathered_again([BLOCK, BLOCK]) == Phase(4.0, 4.0)
    assert exchange(tensor_overlap="none", gathered_inputs="kept").gathered_again([BLOCK, BLOCK]) == Phase()


def test_pytorchs_gradients_are_reduced_beside_nothing():
    assert exchange().beside_weight_grad([BLOCK]) == Phase(1 - OVERLAP_PRICE, 1.0)
    assert exchange(gathered_inputs="kept", tensor_overlap="full").beside_weight_grad([BLOCK]) == Phase()


def test_piece_by_piece_all_but_one_of_four_pieces_of_a_product_hide_something():
    """Collectives of two seconds beside products of one; PyTorch adds up what it received: 2 and 0.5 bytes each."""
    saved = 0.75 * (1 - OVERLAP_PRICE)
    assert exchange(tensor_overlap="full").beside([BLOCK], "forward") == Phase(2 * saved, 1.5)
    kept = exchange(tensor_overlap="full", gathered_inputs="kept").beside([BLOCK], "forward")
    assert kept.seconds == pytest.approx(2 * saved - 2500e-6, rel=1e-12)
    assert exchange(tensor_overlap="gradients").beside([BLOCK], "forward") == Phase()


def test_the_last_reduction_is_what_its_product_does_not_hide():
    assert exchange(tensor_overlap="none").reduced_behind(BLOCK) == Phase(2.0, 2.0)
    behind = exchange(tensor_overlap="full").reduced_behind(BLOCK)
    assert behind.seconds == pytest.approx(2.0 - 0.75 * (1 - OVERLAP_PRICE), rel=1e-12)
    assert behind.collective_s == pytest.approx(1.25, rel=1e-12)


def test_a_gather_hides_behind_the_product_it_feeds():
    """Two column-split products forward; backwards the one of the row-split matrix, whose gradient is gathered."""
    block = (*BLOCK, Matrix("gate", 8, 32, "column"))
    kept = exchange(tensor_overlap="full")
    assert kept.beside([block], "forward").collective_s == 2 * 0.75 + 0.75
    assert kept.beside([block], "input_grad").collective_s == 0.75

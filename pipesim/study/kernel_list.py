"""Which kernels of a model are measured, what the cost model says about them, and how to run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pipesim.calibration import kernels as run
from pipesim.calibration.local import Local, whole
from pipesim.costs.attention import BACKWARD_FLOPS
from pipesim.costs.elementwise import Traffic, elementwise_seconds
from pipesim.costs.gemm import Role, moved_bytes
from pipesim.costs.kernels import Kernels
from pipesim.costs.layer import LayerCosts
from pipesim.costs.products import Product, product
from pipesim.workload.matrices import Matrix, head_matrices, layer_matrices

ROLES: Final[tuple[Role, ...]] = ("forward", "input_grad", "weight_grad")

FEWER: Final = (4, 16, 64, 256)
"""Divisors of the rows of products that a GPU's constants are fitted to as well: with few rows, memory and start-up
count, which a model's own products do not tell apart."""

Works = Callable[[int], Sequence[Callable[[], object]]]


@dataclass(frozen=True)
class Listed:
    """A kernel to measure; ``works`` makes runs of it that take turns, given the bytes of the device's cache."""

    family: str
    name: str
    phase: str
    sizes: Mapping[str, int]
    flops: float
    moved_bytes: float
    predicted_s: float
    works: Works
    traffic: Traffic | None = None


class KernelList:
    """Kernels of all kinds of layers and of the head, priced by ``prices``. Products do not add to what was there
    before, which PyTorch's do not, so ``prices`` must be for unfused gradients. ``fewer_rows``: products with fewer
    rows, too.
    """

    def __init__(self, prices: LayerCosts, local: Local, fewer_rows: bool) -> None:
        self.prices, self.local, self.fewer_rows = prices, local, fewer_rows

    def all(self) -> list[Listed]:
        """Products, attention, memory-bound kernels."""
        return [*self._products(), *self._cores(), *self._memory_bound()]

    def _products(self) -> Iterator[Listed]:
        for name, matrix in self._matrices().items():
            for role in ROLES:
                sizes = product(matrix, role, self.prices.tokens, self.local.shard)
                yield self._product(name, sizes, role)
                if self.fewer_rows and role == "forward" and sizes.groups == 1:
                    yield from self._with_fewer_rows(name, sizes)

    def _matrices(self) -> dict[str, Matrix]:
        """By name; those that several kinds of layers have are there once."""
        model = self.local.model
        kinds = {model.is_mixture(layer) for layer in range(model.layers)}
        matrices = [matrix for kind in sorted(kinds) for matrix in layer_matrices(model, kind)]
        return {matrix.name: matrix for matrix in (*matrices, *head_matrices(model))}

    def _with_fewer_rows(self, name: str, sizes: Product) -> Iterator[Listed]:
        for divisor in FEWER:
            if sizes.m >= divisor:
                yield self._product(f"{name}, rows / {divisor}", replace(sizes, m=whole(sizes.m / divisor)), "forward")

    def _product(self, name: str, sizes: Product, role: Role) -> Listed:
        training = self.prices.training
        result_bytes = training.element_bytes if role == "weight_grad" else None
        moved = moved_bytes(sizes.m, sizes.n, sizes.k, training.precision, role, result_bytes)
        return Listed(
            family="product",
            name=name,
            phase=role,
            sizes={"m": whole(sizes.m), "n": whole(sizes.n), "k": whole(sizes.k), "groups": sizes.groups},
            flops=sizes.flops,
            moved_bytes=float(moved) * sizes.groups,
            predicted_s=self.prices.product_seconds(sizes, role),
            works=lambda cache_bytes: run.product_works(self.local, sizes, role, cache_bytes),
        )

    def _cores(self) -> Iterator[Listed]:
        for backward in (False, True):
            yield self._core(backward)

    def _core(self, backward: bool) -> Listed:
        flops = self.prices.core.flops * (BACKWARD_FLOPS if backward else 1.0)
        predicted_s = self.prices.attention.block_seconds(self.prices.core, backward)
        phase = "input_grad" if backward else "forward"

        def works(cache_bytes: int) -> Sequence[Callable[[], object]]:
            return run.core_works(self.local, backward, cache_bytes)

        return Listed("attention", "attention core", phase, {}, flops, 0.0, predicted_s, works)

    def _memory_bound(self) -> Iterator[Listed]:
        """A norm, a residual addition, the activation function of dense layers, and rotation."""
        model, local = self.local.model, self.local
        kernels = Kernels(model, self.prices.training, local.shard, False)
        yield self._kernel("norm", kernels.norm(), lambda cache: run.norm_works(local, False, cache))
        yield self._kernel(
            "norm", kernels.norm_backward(), lambda cache: run.norm_works(local, True, cache), "input_grad"
        )
        yield self._kernel("residual", kernels.residual(), lambda cache: run.residual_works(local, cache))
        if model.mixture_layers < model.layers:
            forward, backward = kernels.activation(), kernels.activation_backward()
            yield self._kernel("activation", forward, lambda cache: run.activation_works(local, False, cache))
            yield self._kernel(
                "activation", backward, lambda cache: run.activation_works(local, True, cache), "input_grad"
            )
        if model.rotary and not model.mla:
            yield self._kernel("rotation", kernels.rotation(), lambda cache: run.rotary_works(local, cache))

    def _kernel(self, name: str, traffic: Traffic, works: Works, phase: str = "forward") -> Listed:
        predicted_s = elementwise_seconds(traffic, self.prices.gpu)
        return Listed("memory", name, phase, {}, 0.0, traffic.moved_bytes, predicted_s, works, traffic)

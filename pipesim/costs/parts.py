"""Seconds of the parts of a layer, for schedules that cut inside layers.

The norm, the QKV projection and the attention core are priced by themselves; the rest of the layer is what is
left, so that the parts always add up to the layer. Collectives of tensor parallelism: what QKV needs of its
input forward, and hands to it backward, is QKV's; all others are the rest's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from functools import cached_property

from pipesim.costs.elementwise import kernel
from pipesim.costs.kernels import Kernels, layer_kernels
from pipesim.costs.layer import LayerCosts
from pipesim.costs.phases import LayerTimes, Phase
from pipesim.hardware import Cluster, Layout
from pipesim.ir.cut import LAYER, WITHOUT_ATTENTION, Cut, Part, Piece
from pipesim.workload.matrices import attention_matrices, qkv_matrices
from pipesim.workload.model import Model
from pipesim.workload.parameters import pre_attention_parameters
from pipesim.workload.training import WHOLE_LAYER, Training


def repeated_parts(training: Training, cut: Cut) -> frozenset[Part]:
    """Parts that backwards compute again: the cut's own choice, or what the training options mean for it."""
    if cut.repeated is not None:
        return cut.repeated
    if training.recompute in WHOLE_LAYER:
        return frozenset(LAYER)
    if training.recompute == "without-attention":
        return WITHOUT_ATTENTION
    again = training.recompute == "selective" and not training.flash_attention
    return frozenset({Part.ATTENTION}) if again else frozenset()


def ships_weights(pieces: Sequence[Piece]) -> bool:
    """Whether a stage projects to queries, keys and values with weights that live at the norm before it."""
    return pieces[0].part == Part.QKV


class PartCosts(LayerCosts):
    """Prices parts of layers of one model under one layout and way of training."""

    def __init__(self, model: Model, cluster: Cluster, layout: Layout, training: Training, cut: Cut) -> None:
        super().__init__(model, cluster, layout, replace(training, recompute="none", launch_floor=False))
        self.cut, self.repeated = cut, repeated_parts(training, cut)
        floored = replace(training, recompute="none")
        self._launched = LayerCosts(model, cluster, layout, floored) if training.launch_floor else self
        self._known: dict[bool, dict[Part, LayerTimes]] = {}

    def stage(self, pieces: Sequence[Piece]) -> LayerTimes:
        """All parts of a stage, with what its backward repeats or puts off until then."""
        total = LayerTimes()
        for piece in pieces:
            times = self.part(piece)
            if piece.part in self.cut.deferred:
                times = replace(times, forward=Phase(), input_grad=times.forward + times.input_grad)
            if piece.part in self.repeated:
                times = replace(times, recompute=times.forward)
            total += times
        owns_shipped = self.cut_ships and pieces[-1].part == Part.NORM
        return total + (self._added_gradient if owns_shipped else LayerTimes())

    def part(self, piece: Piece) -> LayerTimes:
        """One part, nothing repeated."""
        if piece.part == Part.EMBEDDING:
            return self.embedding()
        if piece.part == Part.HEAD:
            return self.head()
        mixture = self.model.is_mixture(piece.layer)
        if mixture not in self._known:
            self._known[mixture] = self._split(mixture)
        return self._known[mixture][piece.part]

    @cached_property
    def cut_ships(self) -> bool:
        """Whether any stage gets its QKV weights by message."""
        return any(ships_weights(pieces) for pieces in self.cut.pieces)

    @cached_property
    def _added_gradient(self) -> LayerTimes:
        """The owner adds each shipped-back weight gradient to the accumulated one."""
        count = pre_attention_parameters(self.model).per_gpu(self.shard.tensor)
        each = self.training.element_bytes + 2 * self.training.gradient_bytes
        return LayerTimes(weight_grad=self._kernels(kernel(each * count)))

    def _split(self, mixture: bool) -> dict[Part, LayerTimes]:
        kernels = layer_kernels(self.model, self.training, self.shard, mixture)
        parts = {Part.NORM: self._norm(), Part.QKV: self._qkv(kernels), Part.ATTENTION: self._core()}
        whole = self.layer(mixture)
        parts[Part.POST] = _less(whole, parts.values())
        launched = self._launched.layer(mixture)
        return {part: _stretched(times, whole, launched) for part, times in parts.items()}

    def _norm(self) -> LayerTimes:
        element = self.training.element_bytes * self.tokens * self.model.hidden / self.shard.sequence_ways
        return LayerTimes(self._kernels(kernel(2 * element)), self._kernels(kernel(3 * element)))

    def _qkv(self, kernels: Kernels) -> LayerTimes:
        matrices, around = qkv_matrices(self.model), self._kernels(kernels.around_attention())
        forward, backward = self.tensor.gathered_before(attention_matrices(self.model)), self.tensor.reduced()
        bias = Phase()
        if self.model.qkv_bias:
            bias = self._kernels(kernel(self.training.element_bytes * kernels.qkv_elements()))
        return LayerTimes(
            self._matrices(matrices, "forward") + around + forward,
            self._matrices(matrices, "input_grad") + around + bias + backward,
            self._matrices(matrices, "weight_grad"),
        )

    def _core(self) -> LayerTimes:
        return LayerTimes(self._core_forward, self._core_backward)


def _less(whole: LayerTimes, parts: Iterable[LayerTimes]) -> LayerTimes:
    """What is left of a layer without these parts."""
    rest = whole
    for part in parts:
        rest += part.times(-1)
    return rest


def _stretched(part: LayerTimes, whole: LayerTimes, launched: LayerTimes) -> LayerTimes:
    """Each phase longer by the factor by which launching its kernels stretches the layer's."""
    phases = {}
    for field in fields(LayerTimes):
        phase, all_of_it, floored = (getattr(times, field.name) for times in (part, whole, launched))
        factor = floored.seconds / all_of_it.seconds if all_of_it.seconds else 1.0
        phases[field.name] = Phase(phase.seconds * factor, phase.collective_s)
    return LayerTimes(**phases)

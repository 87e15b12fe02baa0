"""What each stage is made of, and the activation bytes of whole stages."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from pipesim.workload import memory
from pipesim.workload.model import Model
from pipesim.workload.parameters import Count, embedding_parameters, head_parameters, layer_parameters
from pipesim.workload.partition import layer_ranges
from pipesim.workload.shard import Shard
from pipesim.workload.training import Training


@dataclass(frozen=True)
class Stage:
    """Layers by kind, whether the embedding and the head are here, parameters, and the pipeline ranks that
    hold a copy of them.
    """

    dense: int
    mixture: int
    embedding: bool
    head: bool
    parameters: Count
    ranks: tuple[int, ...]

    @property
    def contents(self) -> Hashable:
        """What decides its times and sizes; stages with the same contents differ only in their ranks."""
        return self.dense, self.mixture, self.embedding, self.head

    @property
    def kinds(self) -> list[tuple[bool, int]]:
        """(mixture or not, how many) for the kinds of layers that occur."""
        return [(mixture, count) for mixture, count in ((False, self.dense), (True, self.mixture)) if count]


def build_stages(model: Model, layers_per_stage: Sequence[int], ranks: Sequence[Sequence[int]]) -> list[Stage]:
    """Stages of a model; ``ranks`` lists for each the pipeline ranks that hold it.

    A vocabulary matrix that is tied but needed on different ranks is held twice.
    """
    apart = set(ranks[0]) != set(ranks[-1])
    own_vocabulary = True if model.tied_embeddings and apart else None
    layer = {mixture: layer_parameters(model, mixture) for mixture in (False, True)}
    stages = []
    last = len(layers_per_stage) - 1
    for index, layers in enumerate(layer_ranges(layers_per_stage)):
        mixture = sum(model.is_mixture(each) for each in layers)
        dense = len(layers) - mixture
        parameters = layer[False].times(dense) + layer[True].times(mixture)
        if index == 0:
            parameters += embedding_parameters(model)
        if index == last:
            parameters += head_parameters(model, own_vocabulary)
        stages.append(Stage(dense, mixture, index == 0, index == last, parameters, tuple(sorted(set(ranks[index])))))
    return stages


@dataclass(frozen=True)
class StageActivations:
    """Activation bytes of a stage for one micro-batch on one GPU."""

    model: Model
    training: Training
    shard: Shard

    def kept(self, stage: Stage) -> float:
        """What the forward leaves behind."""
        total = self._layers(memory.layer_activations, stage)
        if stage.embedding:
            total += memory.embedding_activations(self.model, self.training, self.shard)
        return total + self._kept_by_head(stage) + self._kept_by_runtime(stage)

    def for_weight_grad(self, stage: Stage) -> float:
        """What W still needs after I. Under recomputation this can be more than the forward kept."""
        total = self._layers(memory.weight_grad_activations, stage)
        if stage.head:
            total += memory.layer_input(self.model, self.training, self.shard)
            total += memory.logits(self.model, self.training, self.shard)
        return total

    def recomputed(self, stage: Stage) -> float:
        """What recomputation brings back, one layer at a time; by then the head has given back what it kept."""
        most = max((self._returned(mixture) for mixture, _ in stage.kinds), default=0.0)
        return max(most - self._kept_by_head(stage), 0.0)

    def transient(self, stage: Stage) -> float:
        """What the backward works in besides, at its widest: in the head, before recomputation, or in a layer."""
        widths = [memory.layer_transient(self.model, mixture, self.training, self.shard) for mixture, _ in stage.kinds]
        head = memory.head_transient(self.model, self.training, self.shard) if stage.head else 0.0
        return max([*widths, head - self.recomputed(stage)])

    def _kept_by_head(self, stage: Stage) -> float:
        return memory.head_activations(self.model, self.training, self.shard) if stage.head else 0.0

    def _kept_by_runtime(self, stage: Stage) -> float:
        """The logits, which a loss op by op does not need again, and which pipelines in PyTorch hold until the backward
        like any stage's output (torch/distributed/pipelining/stage.py, `fwd_cache`). Other outputs are kept anyway.
        """
        alone = stage.embedding and stage.head
        if alone or not stage.head or self.training.fused_loss or self.model.head == "none":
            return 0.0
        return memory.logits(self.model, self.training, self.shard)

    def _returned(self, mixture: bool) -> float:
        arguments = (self.model, mixture, self.training, self.shard)
        return memory.layer_working_set(*arguments) - memory.layer_activations(*arguments)

    def _layers(self, size: memory.LayerBytes, stage: Stage) -> float:
        return sum(count * size(self.model, mixture, self.training, self.shard) for mixture, count in stage.kinds)

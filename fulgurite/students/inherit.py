"""Smaller networks of a teacher's class, made from the teacher's own weights.

    teacher, shape, importance -> best layers, key-value groups with their heads, neurons, channels
                               -> configuration of these sizes -> network -> weights copied, norms rescaled

Structured pruning to a given shape, as a start of training: Muralidharan et al., "Compact Language Models via Pruning
and Knowledge Distillation" (Minitron), https://arxiv.org/abs/2407.14679.
Differs from the paper:
- A layer's best heads and neurons; only channels of the residual stream are ranked over all layers.
- No residual information of dropped heads is added to kept ones.
- Norms are rescaled. A norm divides by the root mean square over channels (after their mean, in a LayerNorm), and
  the kept channels have another one than all of them: ones that matter are mostly large. With ``m`` and ``s^2`` the
  mean and variance of the *teacher's* normalised values over the kept channels, measured over tokens, the weight
  times ``s`` and the bias plus the weight times ``m`` give back, on average, what the teacher's norm gives in these
  channels. Tokens differ, so it is exact for none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from fulgurite.models import tied_names
from fulgurite.students._selection import Kept, best, block_axes
from fulgurite.students.families import (
    Axis,
    block_number,
    family_of,
    family_of_config,
    norm_names,
    renumbered,
)
from fulgurite.students.importance import Importance, NormStatistics
from fulgurite.students.shape import StudentShape, student_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_TINY = 1e-12


@torch.no_grad()
def inherit(teacher: PreTrainedModel, shape: StudentShape, importance: Importance) -> PreTrainedModel:
    """Make a student from the parts of a teacher that matter most.

    Args:
        teacher: Of a known family; stays as it is.
        shape: Sizes, none above the teacher's.
        importance: Of this teacher.

    Returns:
        A network of the teacher's class, dtype, device and mode, which ``save_pretrained`` saves. Of the teacher's own
        shape it computes the same. Tied weights are tied.

    Raises:
        ValueError: If the family is unknown or cannot have the shape, the importance is another network's, or
            the teacher has parameters that its family has not.
    """
    family, config = family_of(teacher), teacher.config
    full = shape.of(config)
    full.check_within(StudentShape().of(config))
    importance.check(config)
    layers = best(importance.layers, full.layers).tolist()
    student = _build(type(teacher), student_config(config, full, layers), teacher)
    hidden = Kept(best(importance.hidden, full.hidden_size))
    outside: Mapping[Axis, Kept] = {"hidden": hidden}
    blocks: list[Mapping[Axis, Kept]] = [
        {
            **outside,
            "neuron": Kept(best(importance.neurons[layer], full.intermediate_size)),
            **block_axes(importance, layer, config, student.config, block),
        }
        for block, layer in enumerate(layers)
    ]
    _check_same_parameters(teacher, student, layers)
    for name, parameter in student.named_parameters():
        axes = outside if (block := block_number(name)) is None else blocks[block]
        parameter.copy_(_taken(teacher.get_parameter(_source(name, layers)), family.axes_of(name), axes))
    if full.hidden_size < config.hidden_size:
        for name in norm_names(family, full.layers):
            statistics = importance.norms.get(_source(name, layers))
            if statistics is not None:
                _rescale(student.get_submodule(name), statistics, hidden.indices)
    return student


def fresh(config: PreTrainedConfig, shape: StudentShape, seed: int = 0) -> PreTrainedModel:
    """A student of the same family with random weights, to compare inheritance with.

    Args:
        config: The teacher's; stays as it is.
        shape: Sizes; may be above the teacher's.
        seed: Of the weights; the global generator is left alone.

    Returns:
        The network in float32 on the CPU, in eval mode.

    Raises:
        ValueError: If the family is unknown or cannot have the shape.
    """
    import transformers

    full = shape.of(config)
    changed = student_config(config, full, range(full.layers))
    network_class: Any = getattr(transformers, family_of_config(config).network_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = network_class._from_config(changed, dtype=torch.float32)
    return cast("PreTrainedModel", network.eval())


def _build(network_class: Any, config: PreTrainedConfig, teacher: PreTrainedModel) -> PreTrainedModel:
    """A network of the class; its random weights are to be overwritten."""
    # an encoder made without a pooler does not say so in its configuration
    options = {"add_pooling_layer": False} if getattr(teacher, "pooler", teacher) is None else {}
    with torch.random.fork_rng(devices=[]):
        student = network_class._from_config(config, dtype=teacher.dtype, **options)
    if (generation := getattr(teacher, "generation_config", None)) is not None:
        student.generation_config = type(generation).from_dict(generation.to_dict())
    return cast("PreTrainedModel", student.to(teacher.device).train(teacher.training))


def _source(name: str, layers: Sequence[int]) -> str:
    """The teacher's name of what the student calls ``name``."""
    block = block_number(name)
    return name if block is None else renumbered(name, layers[block])


def _taken(weight: Tensor, names: Sequence[Axis], axes: Mapping[Axis, Kept]) -> Tensor:
    """The part of a weight that is kept."""
    for dimension, name in enumerate(names):
        kept = axes.get(name)
        if kept is None:  # all of it
            continue
        weight = weight.index_select(dimension, kept.indices.to(weight.device))
        if kept.factor is not None:
            shape = [-1 if other == dimension else 1 for other in range(weight.dim())]
            weight = weight * kept.factor.to(weight).view(shape)
    return weight


def _rescale(norm: nn.Module, statistics: NormStatistics, kept: Tensor) -> None:
    """Make a norm over fewer channels give what it gave over all."""
    mean, square = (each[kept].double().mean() for each in statistics)
    weight = norm.get_parameter("weight")
    centred = isinstance(norm, nn.LayerNorm)
    spread = (square - mean.square() if centred else square).clamp_min(_TINY).sqrt()
    if isinstance(norm, nn.LayerNorm) and norm.bias is not None:
        norm.bias.add_(weight * mean.to(weight))
    weight.mul_(spread.to(weight))


def _check_same_parameters(teacher: nn.Module, student: nn.Module, layers: Sequence[int]) -> None:
    """Raise unless every parameter of the student has one to come from, and weights are tied alike."""
    known = dict(teacher.named_parameters(remove_duplicate=False))
    lost = [
        name
        for name, _ in student.named_parameters(remove_duplicate=False)
        if _source(name, layers) not in known
    ]
    if lost:
        raise ValueError(
            f"teacher must have what a {type(student).__name__} of its configuration has, got no {', '.join(lost[:5])}"
        )
    if (tied := tied_names(teacher)) != (expected := tied_names(student)):
        raise ValueError(f"weights must be tied as the teacher's configuration says, {expected}, got {tied}")

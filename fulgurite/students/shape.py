"""The sizes of a student, and the configuration that has them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fulgurite.students.families import family_of_config, head_width, key_value_heads, neurons

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class StudentShape:
    """Sizes of a student; what is ``None`` is as the teacher's.

    Heads keep their width where the family's configuration can say so (Llama, Mistral, Qwen2); elsewhere (GPT-2,
    BERT, RoBERTa) they are ``hidden_size / heads`` wide.

    Args:
        layers: Blocks.
        hidden_size: Channels of the residual stream.
        intermediate_size: Neurons of each block's MLP.
        heads: Query heads of each block.
        key_value_heads: Heads of keys and values; where ``None`` and the teacher has more than there are
            ``heads``, as many as ``heads``.

    Raises:
        ValueError: If a size is below 1.

    Example:
        >>> StudentShape(layers=3, intermediate_size=384).layers
        3
    """

    layers: int | None = None
    hidden_size: int | None = None
    intermediate_size: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None

    def __post_init__(self) -> None:
        for name, size in asdict(self).items():
            if size is not None and size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")

    def of(self, config: PreTrainedConfig) -> FullShape:
        """The shape with the teacher's sizes in place of ``None``.

        Args:
            config: The teacher's.

        Raises:
            ValueError: If the family is unknown or cannot have this shape.
        """
        family = family_of_config(config)
        heads = self.heads or int(config.num_attention_heads)
        full = FullShape(
            layers=self.layers or int(config.num_hidden_layers),
            hidden_size=self.hidden_size or int(config.hidden_size),
            intermediate_size=self.intermediate_size or neurons(config),
            heads=heads,
            key_value_heads=self.key_value_heads or min(heads, key_value_heads(config)),
        )
        if family.divisible and full.hidden_size % heads:
            raise ValueError(
                f"heads must divide hidden_size in a {family.network_class}, got {heads} and {full.hidden_size}"
            )
        if not family.own_head_dim and full.key_value_heads != heads:
            raise ValueError(
                f"key_value_heads must equal heads in a {family.network_class}, got {full.key_value_heads} "
                f"and {heads}"
            )
        if heads % full.key_value_heads:
            raise ValueError(f"key_value_heads must divide heads, got {full.key_value_heads} and {heads}")
        return full


@dataclass(frozen=True)
class FullShape:
    """Sizes of a network, all of them known; see ``StudentShape``."""

    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    key_value_heads: int

    def check_within(self, teacher: FullShape) -> None:
        """Raise where there is more of something than the teacher has.

        Raises:
            ValueError: With the name of the size, or if a key-value head would serve more query heads than its own.
        """
        sizes = asdict(teacher)
        for name, size in asdict(self).items():
            if size > sizes[name]:
                raise ValueError(f"{name} must be at most the teacher's {sizes[name]}, got {size}")
        own, asked = teacher.heads // teacher.key_value_heads, self.heads // self.key_value_heads
        if asked > own:
            raise ValueError(
                f"a key-value head must serve at most the {own} query heads that it serves in the teacher, got "
                f"{asked} (heads {self.heads}, key_value_heads {self.key_value_heads})"
            )


def student_config(config: PreTrainedConfig, shape: FullShape, layers: Sequence[int]) -> PreTrainedConfig:
    """The teacher's configuration with the student's sizes.

    Args:
        config: The teacher's; stays as it is.
        shape: The student's.
        layers: The teacher's layer that each of the student's is made from: some families treat some layers
            differently. Counted around where there are more than the teacher has.
    """
    family = family_of_config(config)
    changes: dict[str, Any] = {
        "num_hidden_layers": shape.layers,
        "hidden_size": shape.hidden_size,
        "num_attention_heads": shape.heads,
        family.intermediate: shape.intermediate_size,
    }
    if family.own_head_dim:
        changes |= {"num_key_value_heads": shape.key_value_heads, "head_dim": head_width(config)}
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        changes["layer_types"] = [kinds[layer % len(kinds)] for layer in layers]
    changed = copy.deepcopy(config)
    for key, value in changes.items():
        setattr(changed, key, value)
    return changed

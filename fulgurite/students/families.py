"""Which dimensions of which parameters belong together, by family of networks.

    name of a parameter -> what each of its dimensions runs over: the residual stream, neurons, channels of heads

A student keeps the same indices of an axis wherever the axis occurs, so what was coupled stays coupled (the
dependency groups of Ma et al., "LLM-Pruner", https://arxiv.org/abs/2305.11627, section 3.1). Differs from the paper:
a table by name and no tracing of the graph, which would have to be told of rotary and grouped attention anyway.

=========== ===========================================================================================
axis        runs over
=========== ===========================================================================================
hidden      channels of the residual stream
neuron      neurons of a block's MLP
query       channels of a block's query heads, as projected
key, value  channels of a block's key-value heads, as projected
context     channels of a block's query heads, as its output projection reads them
stacked     query, key and value, one after the other
kept        tokens, positions, token types: what a student has as many of as the teacher
=========== ===========================================================================================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Axis = Literal["hidden", "neuron", "query", "key", "value", "context", "stacked", "kept"]

_NUMBER = re.compile(r"\.(\d+)\.")  # of a block; no other part of a name is a number in these families


@dataclass(frozen=True)
class Family:
    """Names of one kind of network; those of modules in a block are relative to it.

    Args:
        network_class: Of transformers.
        blocks: The list of blocks.
        axes: Of each parameter, ``{}`` standing for the block's number.
        norms: Every norm that the residual stream passes, ``{}`` as above.
        query: The module whose first outputs are the queries.
        attention_output: The module that reads the heads' contexts.
        mlp_output: The module that reads the neurons.
        intermediate: What the configuration calls the number of neurons.
        own_head_dim: Whether heads may be of another width than ``hidden_size / heads``.
        divisible: Whether the number of heads must divide ``hidden_size``.
    """

    network_class: str
    blocks: str
    axes: Mapping[str, tuple[Axis, ...]]
    norms: tuple[str, ...]
    query: str
    attention_output: str
    mlp_output: str
    intermediate: str = "intermediate_size"
    own_head_dim: bool = False
    divisible: bool = True

    def axes_of(self, name: str) -> tuple[Axis, ...]:
        """What the dimensions of a parameter run over.

        Raises:
            ValueError: If the family has no such parameter, as with cross-attention.
        """
        axes = self.axes.get(_NUMBER.sub(".{}.", name))
        if axes is None:
            raise ValueError(
                f"parameter {name}: expected one that every {self.network_class} has, got one that students "
                "cannot inherit"
            )
        return axes


def block_number(name: str) -> int | None:
    """The number of the block that a parameter or module belongs to.

    Example:
        >>> block_number("model.layers.11.mlp.up_proj.weight")
        11
    """
    found = _NUMBER.search(name)
    return None if found is None else int(found.group(1))


def renumbered(name: str, block: int) -> str:
    """The same name in another block.

    Example:
        >>> renumbered("model.layers.2.mlp.up_proj.weight", 5)
        'model.layers.5.mlp.up_proj.weight'
    """
    return _NUMBER.sub(f".{block}.", name)


def norm_names(family: Family, layers: int) -> list[str]:
    """Names of all norms of a network with so many layers."""
    return [
        each
        for name in family.norms
        for each in ([name.format(block) for block in range(layers)] if "{}" in name else [name])
    ]


def family_of(network: nn.Module) -> Family:
    """The family of a network.

    Raises:
        ValueError: If students of its class are not known.
    """
    name = type(network).__name__
    for family in FAMILIES.values():
        if family.network_class == name:
            return family
    raise ValueError(f"students can be made of {_known()}, got {name}")


def family_of_config(config: PreTrainedConfig) -> Family:
    """The family that a configuration is of.

    Raises:
        ValueError: If students of its networks are not known.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ValueError(f"students can be made of {_known()}, got model_type {config.model_type!r}")
    return family


def head_width(config: PreTrainedConfig) -> int:
    """Channels of one head."""
    given: int | None = getattr(config, "head_dim", None)
    return given or config.hidden_size // config.num_attention_heads


def key_value_heads(config: PreTrainedConfig) -> int:
    """Heads of keys and values; as many as of queries where the configuration knows no others."""
    given: int | None = getattr(config, "num_key_value_heads", None)
    return given or int(config.num_attention_heads)


def neurons(config: PreTrainedConfig) -> int:
    """Neurons of one block's MLP."""
    given: int | None = getattr(config, family_of_config(config).intermediate, None)
    return given or 4 * int(config.hidden_size)  # GPT-2 says it only where it is another number


def attention_scale(config: PreTrainedConfig, block: int) -> float:
    """What a block multiplies query-key products with; the last two settings are GPT-2's."""
    scale = head_width(config) ** -0.5 if getattr(config, "scale_attn_weights", True) else 1.0
    return scale / (block + 1) if getattr(config, "scale_attn_by_inverse_layer_idx", False) else scale


def _known() -> str:
    return ", ".join(family.network_class for family in FAMILIES.values())


def _layer(
    prefix: str, layers: Mapping[str, tuple[Axis, Axis]], *, transposed: bool = False
) -> dict[str, tuple[Axis, ...]]:
    """Weight and bias of linear layers, given as (out, in); a bias that a network lacks does no harm."""
    axes: dict[str, tuple[Axis, ...]] = {}
    for name, (out, into) in layers.items():
        axes[f"{prefix}{name}.weight"] = (into, out) if transposed else (out, into)
        axes[f"{prefix}{name}.bias"] = (out,)
    return axes


def _norms(names: tuple[str, ...]) -> dict[str, tuple[Axis, ...]]:
    return {f"{name}.{part}": ("hidden",) for name in names for part in ("weight", "bias")}


def _llama(network_class: str, *, divisible: bool) -> Family:
    block = "model.layers.{}."
    norms = (f"{block}input_layernorm", f"{block}post_attention_layernorm", "model.norm")
    return Family(
        network_class=network_class,
        blocks="model.layers",
        axes={
            "model.embed_tokens.weight": ("kept", "hidden"),
            "lm_head.weight": ("kept", "hidden"),
            **_layer(
                block,
                {
                    "self_attn.q_proj": ("query", "hidden"),
                    "self_attn.k_proj": ("key", "hidden"),
                    "self_attn.v_proj": ("value", "hidden"),
                    "self_attn.o_proj": ("hidden", "context"),
                    "mlp.gate_proj": ("neuron", "hidden"),
                    "mlp.up_proj": ("neuron", "hidden"),
                    "mlp.down_proj": ("hidden", "neuron"),
                },
            ),
            **_norms(norms),
        },
        norms=norms,
        query="self_attn.q_proj",
        attention_output="self_attn.o_proj",
        mlp_output="mlp.down_proj",
        own_head_dim=True,
        divisible=divisible,
    )


def _gpt2() -> Family:
    block = "transformer.h.{}."
    norms = (f"{block}ln_1", f"{block}ln_2", "transformer.ln_f")
    return Family(
        network_class="GPT2LMHeadModel",
        blocks="transformer.h",
        axes={
            "transformer.wte.weight": ("kept", "hidden"),
            "transformer.wpe.weight": ("kept", "hidden"),
            "lm_head.weight": ("kept", "hidden"),
            **_layer(
                block,
                {
                    "attn.c_attn": ("stacked", "hidden"),
                    "attn.c_proj": ("hidden", "context"),
                    "mlp.c_fc": ("neuron", "hidden"),
                    "mlp.c_proj": ("hidden", "neuron"),
                },
                transposed=True,  # transformers' Conv1D
            ),
            **_norms(norms),
        },
        norms=norms,
        query="attn.c_attn",
        attention_output="attn.c_proj",
        mlp_output="mlp.c_proj",
        intermediate="n_inner",
    )


def _bert(network_class: str) -> Family:
    block = "encoder.layer.{}."
    norms = ("embeddings.LayerNorm", f"{block}attention.output.LayerNorm", f"{block}output.LayerNorm")
    embeddings = ("word", "position", "token_type")
    return Family(
        network_class=network_class,
        blocks="encoder.layer",
        axes={
            **{f"embeddings.{kind}_embeddings.weight": ("kept", "hidden") for kind in embeddings},
            **_layer(
                block,
                {
                    "attention.self.query": ("query", "hidden"),
                    "attention.self.key": ("key", "hidden"),
                    "attention.self.value": ("value", "hidden"),
                    "attention.output.dense": ("hidden", "context"),
                    "intermediate.dense": ("neuron", "hidden"),
                    "output.dense": ("hidden", "neuron"),
                },
            ),
            **_layer("pooler.", {"dense": ("hidden", "hidden")}),
            **_norms(norms),
        },
        norms=norms,
        query="attention.self.query",
        attention_output="attention.output.dense",
        mlp_output="output.dense",
    )


FAMILIES: Mapping[str, Family] = {
    # LlamaConfig checks that heads divide hidden_size though it has head_dim
    "llama": _llama("LlamaForCausalLM", divisible=True),
    "mistral": _llama("MistralForCausalLM", divisible=False),
    "qwen2": _llama("Qwen2ForCausalLM", divisible=False),
    "gpt2": _gpt2(),
    "bert": _bert("BertModel"),
    "roberta": _bert("RobertaModel"),
}
"""Known families by the ``model_type`` of their configurations."""

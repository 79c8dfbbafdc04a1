"""Small teachers of every family, with weights large enough that each of them tells in the outputs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from fulgurite.students import Importance
from fulgurite.students.importance import importance_sizes

# 4 heads of 8 channels; 56 neurons: no power of two
SIZES = {"hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = {**SIZES, "num_key_value_heads": 2, "initializer_range": 0.2, "vocab_size": 40}
ENCODER = {**SIZES, "initializer_range": 0.2, "vocab_size": 40, "max_position_embeddings": 24}
TEACHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("LlamaConfig", {**GROUPED, "tie_word_embeddings": True}),
    "MistralForCausalLM": ("MistralConfig", {**GROUPED, "sliding_window": 5}),
    # the second and third layer have a window: layers are not all of one kind
    "Qwen2ForCausalLM": (
        "Qwen2Config",
        {**GROUPED, "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 4},
    ),
    "GPT2LMHeadModel": (
        "GPT2Config",
        {
            **{"n_embd": 32, "n_inner": 56, "n_layer": 3, "n_head": 4, "n_positions": 24, "vocab_size": 40},
            **{"scale_attn_by_inverse_layer_idx": True, "initializer_range": 0.2},
        },
    ),
    "BertModel": ("BertConfig", ENCODER),
    "RobertaModel": ("RobertaConfig", ENCODER),
}
GROUPED_HEADS = ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"]
EQUAL_HEADS = ["GPT2LMHeadModel", "BertModel", "RobertaModel"]


@pytest.fixture
def make_teacher() -> Callable[..., Any]:
    def make(name: str, **options: Any) -> Any:
        config, settings = TEACHERS[name]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = getattr(transformers, name)(getattr(transformers, config)(**settings), **options)
            for parameter in network.parameters():
                if parameter.dim() == 1:  # biases and norms start at 0 and 1, which hides mistakes
                    parameter.data += 0.2 * torch.randn_like(parameter)
        return network.eval()

    return make


@pytest.fixture(params=list(TEACHERS))
def teacher(request: pytest.FixtureRequest, make_teacher: Callable[..., Any]) -> Any:
    return make_teacher(request.param)


@pytest.fixture
def random_importance() -> Callable[[Any], Importance]:
    """Different ranks in every layer, so that indices of one layer are wrong in another."""

    def make(network: Any) -> Importance:
        generator = torch.Generator().manual_seed(1)
        sizes = importance_sizes(network.config)
        return Importance(**{name: torch.rand(size, generator=generator) for name, size in sizes.items()})

    return make


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Two rows of 12 tokens; 0 and 1 are padding in some families, so they do not occur."""
    return {"input_ids": torch.randint(2, 40, (2, 12), generator=torch.Generator().manual_seed(2))}


@pytest.fixture
def outputs() -> Callable[..., Tensor]:
    """Logits, or token vectors with the pooled one."""

    @torch.no_grad()
    def run(network: Any, batch: dict[str, Tensor]) -> Tensor:
        found = network(**batch)
        if hasattr(found, "logits"):
            return found.logits
        pooled = [] if found.pooler_output is None else [found.pooler_output[:, None]]
        return torch.cat([found.last_hidden_state, *pooled], 1)

    return run

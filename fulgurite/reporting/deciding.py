"""Which of a record's many tries and layers a reader wants to see, and how layers are told apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

KINDS = ("attention", "mlp", "embedding", "norm", "other")
"""Kinds of weights, as ``kind_of`` tells them."""

# the first that matches wins: "post_attention_layernorm" is a norm, "self_attn.q_proj" is attention
_PATTERNS = (
    ("norm", r"norm|(^|[._])ln([._\d]|$)"),
    ("embedding", r"embed|(^|\.)(wte|wpe|lm_head)(\.|$)|positional"),
    ("attention", r"attn|attention|(^|\.)[qkvo]_proj"),
    (
        "mlp",
        r"mlp|ffn|feed_forward|intermediate|(^|\.)(fc\d|c_fc|c_proj|up_proj|down_proj|gate_proj)|output\.dense",
    ),
)


def kind_of(weight: str) -> str:
    """Kind of a weight by its name, for Llama, GPT-2, BERT, CLIP and their likes.

    Example:
        >>> kind_of("model.layers.0.self_attn.q_proj.weight"), kind_of("lm_head.weight")
        ('attention', 'embedding')
    """
    lowered = weight.lower()
    return next((kind for kind, pattern in _PATTERNS if re.search(pattern, lowered)), "other")


def block_ticks(weights: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Where each numbered block of the network begins: place of its first weight, and its number."""
    last = None
    for place, weight in enumerate(weights):
        number = re.search(r"\.(\d+)\.", weight)
        block = number[1] if number else None
        if block is not None and block != last:
            yield place, block
        last = block


def deciding_try(stage: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The try that a stage stands for: the accepted one, which is the last, or the last rejected one."""
    return stage["tries"][-1] if stage["tries"] else None


def deciding_gate(stage: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The verdict on the last try that reached its gate; ``None`` where none did."""
    return next(
        (attempt["gate"] for attempt in reversed(stage["tries"]) if attempt["gate"] is not None), None
    )


def result_stage(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The stage that gave the result; the last one begun where none was accepted."""
    named = (stage for stage in record["stages"] if stage["name"] == record["level"])
    return next(named, record["stages"][-1] if record["stages"] else None)


def result_layers(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Layers of the try that ``result_stage`` stands for; empty where they were not measured."""
    stage = result_stage(record)
    attempt = deciding_try(stage) if stage is not None else None
    return attempt["layers"] if attempt is not None else []

"""A stage with an allocation: what its weights may become, and what a retry changes."""

import pytest
import torch

from callbacks.stages import Allocate, Refine, Stage
from callbacks.stages.advice import Advice
from fulgurite.codecs import Float16Codec, UniformCodec

WEIGHTS = {name: torch.zeros(4, 4) for name in ("embed.weight", "up.weight", "down.weight")}


def test_what_an_override_names_is_pinned() -> None:
    codec, pinned = UniformCodec(bits=4), UniformCodec(bits=8)
    stage = Stage(codec, overrides={"embed.*": pinned}, allocate=Allocate(bits_per_weight=3))
    ladders = stage.ladders(stage.plan(WEIGHTS, key="stage", network="Network"))
    assert ladders["embed.weight"] == (pinned,)
    assert ladders["up.weight"] == (*codec.candidates(), Float16Codec())


def test_without_an_allocation_each_weight_has_its_codec() -> None:
    stage = Stage(UniformCodec(bits=4))
    plan = stage.plan(WEIGHTS, key="stage", network="Network")
    assert stage.ladders(plan) == {name: (codec,) for name, codec in plan.items()}


@pytest.mark.parametrize(("severe", "budget"), [(False, 1100), (True, 1250)])
def test_a_retry_changes_the_limit_and_neither_codec_nor_overrides(severe: bool, budget: int) -> None:
    stage = Stage(UniformCodec(bits=4), allocate=Allocate(budget=1000), refine=Refine(steps=10))
    advice = stage.relaxed(Advice(severe, focus=("down.weight",), protect=("up.weight",), longer=severe))
    assert advice is not None
    after, changes = advice
    assert changes[0] == f"allocate.budget 1,000 -> {budget:,} bytes"
    assert after.allocate is not None
    assert after.allocate.budget == budget
    assert (after.codec, after.overrides) == (stage.codec, {})
    assert after.refine.steps == (20 if severe else 10)
    assert stage.allocate == Allocate(budget=1000), "the stage itself is not touched"
    assert after.settings()["allocate"]["budget"] == budget

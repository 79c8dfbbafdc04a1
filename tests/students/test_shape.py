"""A shape is filled in from the teacher, and refused where the family cannot have it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fulgurite.students import FullShape, StudentShape, inherit


def test_what_is_not_said_is_as_the_teacher(make_teacher: Callable[..., Any]) -> None:
    llama, gpt2 = make_teacher("LlamaForCausalLM").config, make_teacher("GPT2LMHeadModel").config
    assert StudentShape().of(llama) == FullShape(3, 32, 56, 4, 2)
    assert StudentShape(layers=1, intermediate_size=8).of(llama) == FullShape(1, 32, 8, 4, 2)
    assert StudentShape().of(gpt2) == FullShape(3, 32, 56, 4, 4)
    gpt2.n_inner = None  # GPT-2's way to say 4 times the hidden size
    assert StudentShape(hidden_size=16).of(gpt2).intermediate_size == 128


def test_key_value_heads_are_at_most_as_many_as_heads(make_teacher: Callable[..., Any]) -> None:
    config = make_teacher("LlamaForCausalLM").config
    assert StudentShape(heads=1).of(config).key_value_heads == 1
    assert StudentShape(heads=2).of(config).key_value_heads == 2
    assert StudentShape(heads=2).of(make_teacher("BertModel").config).key_value_heads == 2


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "LlamaForCausalLM",
            {"heads": 3},
            "heads must divide hidden_size in a LlamaForCausalLM, got 3 and 32",
        ),
        ("GPT2LMHeadModel", {"hidden_size": 30}, "heads must divide hidden_size .*, got 4 and 30"),
        ("MistralForCausalLM", {"heads": 3}, "key_value_heads must divide heads, got 2 and 3"),
        ("BertModel", {"key_value_heads": 2}, "key_value_heads must equal heads in a BertModel, got 2 and 4"),
    ],
)
def test_a_shape_that_the_family_cannot_have_is_refused(
    make_teacher: Any, name: str, shape: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        StudentShape(**shape).of(make_teacher(name).config)


def test_heads_need_not_divide_the_hidden_size_where_they_have_a_width_of_their_own(
    make_teacher: Any, random_importance: Any, outputs: Any, batch: Any
) -> None:
    teacher = make_teacher("Qwen2ForCausalLM")
    shape = StudentShape(hidden_size=20, heads=3, key_value_heads=3)  # 3 does not divide 20
    with pytest.raises(ValueError, match=r"key_value_heads must be at most the teacher's 2, got 3"):
        inherit(teacher, shape, random_importance(teacher))
    student: Any = inherit(teacher, StudentShape(hidden_size=21, heads=2), random_importance(teacher))
    assert student.config.head_dim == 8
    assert torch.isfinite(outputs(student, batch)).all()


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        StudentShape(layers=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"layers": 4}, "layers must be at most the teacher's 3, got 4"),
        ({"hidden_size": 64}, "hidden_size must be at most the teacher's 32, got 64"),
        ({"heads": 4, "key_value_heads": 1}, "at most the 2 query heads .* got 4"),
    ],
)
def test_a_student_cannot_inherit_more_than_there_is(
    make_teacher: Any, random_importance: Any, shape: dict[str, int], message: str
) -> None:
    teacher = make_teacher("LlamaForCausalLM")
    with pytest.raises(ValueError, match=message):
        inherit(teacher, StudentShape(**shape), random_importance(teacher))

"""A student is made of its teacher's parts, and of all that belongs to each of them."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from fulgurite.models import load_causal_lm, load_text_encoder, tied_names
from fulgurite.students import (
    Importance,
    StudentShape,
    fresh,
    inherit,
    measure_importance,
    next_token_loss,
)
from fulgurite.students.families import family_of, norm_names

Outputs = Callable[..., Tensor]
Ranks = Callable[[Any], Importance]
GROUPED_HEADS = ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"]
EQUAL_HEADS = ["GPT2LMHeadModel", "BertModel", "RobertaModel"]
# all sizes at once: 2 of 3 layers, 16 of 32 channels, 20 of 56 neurons, 2 of 4 heads
SMALL = StudentShape(layers=2, hidden_size=16, intermediate_size=20, heads=2)


def block(network: Any, layer: int) -> Any:
    return network.get_submodule(family_of(network).blocks)[layer]


def output_columns(module: Any) -> Tensor:
    """The weight of a linear layer or a Conv1D as [out, in]."""
    return module.weight.data.T if type(module).__name__ == "Conv1D" else module.weight.data


def test_a_student_of_the_same_shape_computes_the_same(
    teacher: Any, random_importance: Ranks, outputs: Outputs, batch: dict[str, Tensor]
) -> None:
    student = inherit(teacher, StudentShape(), random_importance(teacher))
    assert student is not teacher
    assert torch.equal(outputs(student, batch), outputs(teacher, batch))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_student_keeps_the_dtype_but_not_for_rotary_frequencies(
    make_teacher: Callable[..., Any],
    random_importance: Ranks,
    outputs: Outputs,
    batch: Any,
    dtype: torch.dtype,
) -> None:
    made = make_teacher("LlamaForCausalLM")
    config = copy.deepcopy(made.config)
    teacher = type(made)._from_config(config, dtype=dtype).eval()  # the way in which checkpoints are loaded
    student = inherit(teacher, StudentShape(), random_importance(teacher))
    assert {weight.dtype for weight in student.parameters()} == {dtype}
    assert torch.equal(outputs(student, batch), outputs(teacher, batch))


def test_a_student_of_fewer_layers_is_the_teacher_without_the_others(
    teacher: Any, random_importance: Ranks, outputs: Outputs, batch: dict[str, Tensor]
) -> None:
    importance = replace(random_importance(teacher), layers=torch.tensor([0.1, 0.3, 0.2]))
    student = inherit(teacher, StudentShape(layers=2), importance)
    assert student.config.num_hidden_layers == 2
    # the first: in Qwen2 here it is the only one without a window
    handle = block(teacher, 0).register_forward_hook(lambda module, args, output: args[0])
    expected = outputs(teacher, batch)
    handle.remove()
    # GPT-2 here divides by the number of the layer, which changes: its queries are rescaled, and rounded
    torch.testing.assert_close(outputs(student, batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", GROUPED_HEADS)
@pytest.mark.parametrize("kept", [[[1, 2], [0, 3], [0, 2]], [[0, 1], [2, 3], [0, 1]]])
def test_heads_that_give_nothing_can_be_left_out_with_their_keys_and_values(
    make_teacher: Any,
    random_importance: Ranks,
    outputs: Outputs,
    batch: Any,
    name: str,
    kept: list[list[int]],
) -> None:
    teacher = make_teacher(name)
    importance = random_importance(teacher)
    heads = torch.rand(3, 4) * 0.1
    for layer, of_layer in enumerate(kept):
        heads[layer, of_layer] += 1
        dropped = [head for head in range(4) if head not in of_layer]
        block(teacher, layer).self_attn.o_proj.weight.data.view(32, 4, 8)[:, dropped] = 0
    # 2 query heads use one key-value head: the first case keeps both groups, the second one of them
    groups = 2 if kept[0] == [1, 2] else 1
    shape = StudentShape(heads=2, key_value_heads=groups)
    student: Any = inherit(teacher, shape, replace(importance, heads=heads))
    assert student.config.head_dim == 8
    assert block(student, 0).self_attn.k_proj.weight.shape == (8 * groups, 32)
    torch.testing.assert_close(outputs(student, batch), outputs(teacher, batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", EQUAL_HEADS)
def test_heads_that_must_become_wider_are_filled_with_what_changes_nothing_and_can_be_trained(
    make_teacher: Any, random_importance: Ranks, outputs: Outputs, batch: Any, name: str
) -> None:
    teacher = make_teacher(name)
    heads = torch.tensor([[1.0, 2, 3, 4], [4.0, 3, 2, 1], [1.0, 4, 2, 3]])
    student: Any = inherit(teacher, StudentShape(heads=2), replace(random_importance(teacher), heads=heads))
    for layer, of_layer in enumerate(heads):
        reader = block(teacher, layer).get_submodule(family_of(teacher).attention_output)
        output_columns(reader).view(32, 4, 8)[:, of_layer < 2.5] = 0
    torch.testing.assert_close(outputs(student, batch), outputs(teacher, batch), atol=1e-5, rtol=1e-5)

    student.train()
    found = student(**batch)
    (found.logits if name == "GPT2LMHeadModel" else found.last_hidden_state).square().sum().backward()
    queries = block(student, 0).get_submodule(family_of(student).query).weight
    gradient = (queries.grad.T if name == "GPT2LMHeadModel" else queries.grad)[:32].view(2, 16, 32)
    assert (gradient[:, 8:].abs().amax((1, 2)) > 0).all()  # the filling is the second half of each head


def test_neurons_that_give_nothing_can_be_left_out(
    teacher: Any, random_importance: Ranks, outputs: Outputs, batch: dict[str, Tensor]
) -> None:
    importance = random_importance(teacher)
    for layer, scores in enumerate(importance.neurons):
        reader = block(teacher, layer).get_submodule(family_of(teacher).mlp_output)
        output_columns(reader)[:, scores.argsort()[:36]] = 0
    student = inherit(teacher, StudentShape(intermediate_size=20), importance)
    torch.testing.assert_close(outputs(student, batch), outputs(teacher, batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", GROUPED_HEADS)
def test_channels_of_zero_can_be_left_out_as_norms_are_rescaled(
    make_teacher: Any, outputs: Outputs, batch: dict[str, Tensor], name: str
) -> None:
    teacher = make_teacher(name)
    zero = torch.arange(32) % 2 == 1
    teacher.model.embed_tokens.weight.data[:, zero] = 0
    for layer in teacher.model.layers:
        layer.self_attn.o_proj.weight.data[zero] = 0
        layer.mlp.down_proj.weight.data[zero] = 0
    importance = measure_importance(teacher, [batch], next_token_loss)
    assert (importance.hidden[zero] == 0).all()
    # the mean square over 16 channels is twice that over 32, in every norm and for every token
    student: Any = inherit(teacher, StudentShape(hidden_size=16), importance)
    torch.testing.assert_close(student.model.norm.weight, teacher.model.norm.weight[~zero] * 2**0.5)
    # the norms' epsilon is relatively smaller in the student
    torch.testing.assert_close(outputs(student, batch), outputs(teacher, batch), atol=1e-3, rtol=1e-3)
    as_they_are = inherit(teacher, StudentShape(hidden_size=16), replace(importance, norms={}))
    assert (outputs(as_they_are, batch) - outputs(teacher, batch)).abs().max() > 0.1


@pytest.mark.parametrize("name", EQUAL_HEADS)
def test_narrower_heads_keep_the_scale_of_attention(
    make_teacher: Any, random_importance: Ranks, batch: dict[str, Tensor], name: str
) -> None:
    teacher = make_teacher(name)
    odd, late = torch.arange(32) % 2 == 1, torch.arange(32) % 8 >= 4
    for key, parameter in teacher.named_parameters():
        kind = type(teacher.get_submodule(key.rpartition(".")[0])).__name__
        inputs = {"Linear": 1, "Conv1D": 0}.get(kind) if parameter.dim() == 2 else None
        for dimension, axis in enumerate(family_of(teacher).axes_of(key)):
            along = parameter.data.transpose(0, dimension)
            if axis == "hidden":
                along[odd] = 0 if dimension == inputs else along[~odd]
            elif axis in ("query", "key", "stacked"):
                along[:64][odd.repeat(len(along[:64]) // 32)] = 0
            if axis in ("value", "stacked"):
                along[-32:][~late] = 0
    # every second channel is a copy that nothing reads, so that means and variances are the same without them;
    # half of each head's channels are zero, of queries and keys others than of values
    ranks = random_importance(teacher)
    importance = replace(
        ranks,
        hidden=ranks.hidden + ~odd,
        queries=ranks.queries + ~odd,
        values=ranks.values + late,
    )
    student: Any = inherit(teacher, StudentShape(hidden_size=16), importance)
    assert student.config.num_attention_heads == 4
    with torch.no_grad():
        expected = teacher.base_model(**batch).last_hidden_state[..., ~odd]
        found = student.base_model(**batch).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", EQUAL_HEADS)
def test_layer_norms_give_on_average_what_they_gave_over_all_channels(
    make_teacher: Any, batch: dict[str, Tensor], name: str
) -> None:
    teacher = make_teacher(name)
    for embedding in teacher.modules():
        if isinstance(embedding, torch.nn.Embedding):
            # some channels are larger than the others, and not around zero
            embedding.weight.data[:, :16] = embedding.weight.data[:, :16] * 3 + 1
    importance = measure_importance(teacher, [batch], None)
    importance = replace(importance, hidden=-torch.arange(32.0), queries=torch.ones(3, 32))
    first = norm_names(family_of(teacher), 3)[0]
    expected = _norm_outputs(teacher, first, batch)[..., :16]
    shape = StudentShape(hidden_size=16)
    rescaled = _norm_outputs(inherit(teacher, shape, importance), first, batch)
    plain = _norm_outputs(inherit(teacher, shape, replace(importance, norms={})), first, batch)
    # the first norm: its input is the same in both, what the norms after it get is not
    assert (rescaled - expected).square().mean() < 0.1 * (plain - expected).square().mean()


def _norm_outputs(network: Any, name: str, batch: dict[str, Tensor]) -> Tensor:
    seen: list[Tensor] = []
    handle = network.get_submodule(name).register_forward_hook(
        lambda module, args, output: seen.append(output)
    )
    with torch.no_grad():
        network(**batch)
    handle.remove()
    return seen[0]


def test_a_student_is_saved_and_loaded_as_any_network_of_its_class(
    teacher: Any, random_importance: Ranks, outputs: Outputs, batch: dict[str, Tensor], tmp_path: Path
) -> None:
    student = inherit(teacher, SMALL, random_importance(teacher))
    student.save_pretrained(tmp_path)
    load = load_text_encoder if type(teacher).__name__ in ("BertModel", "RobertaModel") else load_causal_lm
    loaded = load(str(tmp_path))  # refuses a network with weights missing or of another shape
    assert type(loaded) is type(teacher)
    assert torch.equal(outputs(loaded, batch), outputs(student, batch))
    assert tied_names(loaded) == tied_names(student) == tied_names(teacher)


def test_a_teacher_and_the_generator_stay_as_they_are(teacher: Any, random_importance: Ranks) -> None:
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    config, state = teacher.config.to_dict(), torch.get_rng_state()
    students = [inherit(teacher, SMALL, random_importance(teacher)).state_dict() for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert teacher.config.to_dict() == config
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert all(torch.equal(weight, students[1][name]) for name, weight in students[0].items())


def test_an_encoder_without_a_pooler_has_students_without(
    make_teacher: Any, random_importance: Ranks, outputs: Outputs, batch: dict[str, Tensor]
) -> None:
    teacher = make_teacher("BertModel", add_pooling_layer=False)
    student = inherit(teacher, StudentShape(), random_importance(teacher))
    assert torch.equal(outputs(student, batch), outputs(teacher, batch))


def test_a_fresh_student_is_decided_by_its_seed(teacher: Any) -> None:
    state = torch.get_rng_state()
    first, again, other = (fresh(teacher.config, SMALL, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert type(first) is type(teacher)
    weights = [dict(network.named_parameters()) for network in (first, again, other)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    matrices = [name for name, weight in weights[0].items() if weight.dim() == 2]
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in matrices)
    assert first.get_input_embeddings().weight.shape == (40, 16)


def test_a_class_that_is_not_known_is_refused_with_those_that_are(random_importance: Ranks) -> None:
    config = transformers.BertConfig(**{"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1})
    teacher: Any = transformers.BertForMaskedLM(config)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM, .*RobertaModel, got BertForMaskedLM"):
        inherit(teacher, StudentShape(), random_importance(teacher))
    with pytest.raises(ValueError, match="got model_type 'clip'"):
        fresh(transformers.CLIPConfig(), StudentShape())


def test_an_importance_of_another_network_is_refused(make_teacher: Any, random_importance: Ranks) -> None:
    teacher = make_teacher("LlamaForCausalLM")
    importance = random_importance(teacher)
    with pytest.raises(
        ValueError, match=r"importance\.neurons must be \[3, 56\] for this teacher, got \[3, 7\]"
    ):
        inherit(teacher, StudentShape(), replace(importance, neurons=torch.ones(3, 7)))
    with pytest.raises(ValueError, match=r"importance\.layers must be finite"):
        inherit(teacher, StudentShape(), replace(importance, layers=torch.tensor([1.0, 2.0, torch.nan])))


def test_weights_tied_against_the_configuration_are_refused(
    make_teacher: Any, random_importance: Ranks
) -> None:
    teacher = make_teacher("LlamaForCausalLM")
    teacher.lm_head.weight = torch.nn.Parameter(teacher.lm_head.weight.detach().clone())
    with pytest.raises(ValueError, match=r"tied as the teacher's configuration says, .*lm_head.* got \{\}"):
        inherit(teacher, StudentShape(), random_importance(teacher))


def test_parts_of_a_real_network_that_matter_are_found(shared_data: Path) -> None:
    folder, text = shared_data / "models" / "books6m", shared_data / "text" / "tinyshakespeare" / "input.txt"
    if not folder.is_dir() or not text.is_file():
        pytest.skip("needs books6m and tinyshakespeare")
    teacher: Any = load_causal_lm(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = torch.tensor(tokenizer(text.read_text()[:40_000])["input_ids"])[: 12 * 128].view(12, 128)
    measured, held_out = ({"input_ids": part} for part in (rows[:8], rows[8:]))
    importance = measure_importance(teacher, [measured], next_token_loss)

    def loss(shape: StudentShape, **changes: Tensor) -> float:
        with torch.no_grad():
            return float(next_token_loss(inherit(teacher, shape, replace(importance, **changes)), held_out))

    half = StudentShape(intermediate_size=teacher.config.intermediate_size // 2)
    chance = torch.rand(importance.neurons.shape, generator=torch.Generator().manual_seed(0))
    assert loss(half) < loss(half, neurons=chance)
    fewer = StudentShape(layers=4)
    first = -torch.arange(float(len(importance.layers)))
    assert loss(fewer) < loss(fewer, layers=first)

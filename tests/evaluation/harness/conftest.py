"""A small Llama with a tokenizer of bytes and merges, and files of benchmarks as the hub has their fields."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "lm_eval", reason="benchmarks need lm-evaluation-harness: pip install 'fulgurite[benchmarks]'"
)

WORDS = [
    *("the", "cat", "sat", "on", "a", "red", "mat", "and", "saw", "two", "old", "dogs"),
    *("run", "over", "green", "hills", "to", "find", "blue", "birds", "who", "sing", "at", "noon"),
]


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, wide enough apart that no two answers are equally probable; 128 positions."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("llama")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(small_llama: Path) -> tuple[Any, Any]:
    """The network and its tokenizer."""
    from fulgurite.models import load_causal_lm, load_tokenizer

    return load_causal_lm(str(small_llama)), load_tokenizer(str(small_llama))


def arc_item(index: int) -> dict[str, Any]:
    choices = [" ".join(WORDS[(index + place) % 9 :: 5][: place + 2]) for place in range(4)]
    return {
        "id": f"q{index}",
        "question": f"What did {WORDS[index % 20]} see at {WORDS[(3 * index) % 20]}?",
        "choices": {"text": choices, "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[index % 4],
    }


def write_lines(path: Path, items: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


@pytest.fixture
def lines() -> Callable[[Path, Sequence[Any]], Path]:
    """Writes items as JSON lines."""
    return write_lines


@pytest.fixture
def item() -> Callable[[int], dict[str, Any]]:
    """An item of ARC."""
    return arc_item


@pytest.fixture(scope="session")
def bench_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few items of each benchmark."""
    folder = tmp_path_factory.mktemp("bench")
    some = range(12)
    for name in ("arc_easy", "arc_challenge"):
        write_lines(folder / name / "test.jsonl", [arc_item(index) for index in some])
    write_lines(
        folder / "hellaswag" / "validation.jsonl",
        [
            {
                "activity_label": "Walking",
                "ctx_a": f"The cat {WORDS[index]} on a mat.",
                "ctx_b": "two dogs",
                "endings": [f"{WORDS[index + place]} a hill [title] to find it." for place in range(4)],
                "label": str(index % 4),
            }
            for index in some
        ],
    )
    write_lines(
        folder / "winogrande" / "validation.jsonl",
        [
            {
                "sentence": f"Anna saw {WORDS[index]} and Tom, so _ went home.",
                "option1": "Anna",
                "option2": "Tom",
                "answer": str(1 + index % 2),
            }
            for index in some
        ],
    )
    subjects = ("abstract_algebra", "anatomy")
    asked = [
        {
            "question": f" Which {WORDS[index]} is {subject}?",
            "subject": subject,
            "choices": [f"{WORDS[index + place]} {place}" for place in range(4)],
            "answer": index % 4,
        }
        for subject in subjects
        for index in some
    ]
    write_lines(folder / "mmlu" / "test.jsonl", asked)
    write_lines(folder / "mmlu" / "dev.jsonl", asked[6:18])  # six of each
    write_lines(
        folder / "truthfulqa" / "multiple_choice_validation.jsonl",
        [
            {
                "question": f"Do {WORDS[index]} sing?",
                "mc1_targets": {"choices": ["No", "They do", "At noon"], "labels": [1, 0, 0]},
                "mc2_targets": {"choices": ["No", "Never", "They do", "At noon"], "labels": [1, 1, 0, 0]},
            }
            for index in some
        ],
    )
    problems = [
        {
            "question": f"Two and {index} is?",
            "answer": f"2+{index}=<<2+{index}={2 + index}>>\n#### {2 + index}",
        }
        for index in range(20)
    ]
    write_lines(folder / "gsm8k" / "test.jsonl", problems[:12])
    write_lines(folder / "gsm8k" / "train.jsonl", problems[12:])
    story = " ".join(
        f"The {WORDS[i % 20]} {WORDS[(i * 7) % 20]} {WORDS[(i * 3 + 1) % 20]}." for i in range(400)
    )
    (folder / "tinystories").mkdir()
    (folder / "tinystories" / "valid.txt").write_text(story)
    article = "\n\n\n".join(f" The {WORDS[i % 20]} saw {WORDS[(i * 7) % 20]} @-@ birds . " for i in range(60))
    (folder / "wikitext2_raw").mkdir()
    (folder / "wikitext2_raw" / "test.txt").write_text(
        "".join(f"\n\n = {title} = \n\n\n\n\n{article}\n" for title in ("Cats", "Dogs", "Hills"))
    )
    return folder

"""Whole benchmarks: the same scores as the harness's own model on the same tasks and files, item by item."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fulgurite.evaluation.harness import (
    CORE,
    BenchmarkDataError,
    LanguageSuite,
    SuiteResult,
    benchmark_folder,
    expand,
)
from fulgurite.evaluation.measure import check_paired

Write = Callable[[Path, Sequence[Any]], Path]
KINDS = ["arc_easy", "hellaswag", "winogrande", "mmlu", "truthfulqa_mc2", "gsm8k", "tinystories", "wikitext2"]


@pytest.fixture(scope="module")
def suite(bench_data: Path) -> LanguageSuite:
    return LanguageSuite.load(KINDS, data_dir=bench_data, limit=6)


@pytest.fixture(scope="module")
def result(suite: LanguageSuite, loaded: tuple[Any, Any]) -> SuiteResult:
    return suite.evaluate(*loaded, batch_size=4)


@pytest.fixture(scope="module")
def theirs(suite: LanguageSuite, bench_data: Path, small_llama: Path) -> dict[str, Any]:
    """What the harness finds with its own model, its own loop and the same YAMLs."""
    pytest.importorskip("accelerate", reason="the harness's own model needs it")
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(
        include_path=str(benchmark_folder()), include_defaults=False, metadata={"data_dir": str(bench_data)}
    )
    found: dict[str, Any] = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(small_llama), "dtype": "float32"},
        tasks=KINDS,
        samples=dict(suite.chosen),
        task_manager=manager,
        device="cpu",
        batch_size=4,
        bootstrap_iters=0,
        gen_kwargs="max_gen_toks=64",  # half of the network's positions, as ours
    )
    return found


@pytest.mark.parametrize("name", KINDS)
def test_scores_are_the_harness_s_to_the_item(result: SuiteResult, theirs: dict[str, Any], name: str) -> None:
    (score,) = (score for score in result.scores if score.name == name)
    metric, _, chosen = score.metric.partition(",")
    samples = [sample for sample in theirs["samples"][name] if sample["filter"] == (chosen or "none")]
    assert [sample["doc_id"] for sample in samples] == [item["item"] for item in score.items][: len(samples)]
    expected = [sample[metric] for sample in samples]
    if metric == "bits_per_byte":
        bits = [-nats / np.log(2) for nats, _ in expected]
        np.testing.assert_allclose(score.measure.items, bits, rtol=1e-5)
        assert score.measure.weights.tolist() == [size for _, size in expected]
    else:
        np.testing.assert_allclose(
            score.measure.items, expected, atol=1e-5
        )  # counts are equal, shares nearly so
    total = theirs["results"][name][f"{metric},{chosen or 'none'}"]
    assert score.measure.value == pytest.approx(total, rel=1e-5)
    for other, value in score.others.items():
        key = other if "," in other else f"{other},none"
        assert value == pytest.approx(theirs["results"][name][key], rel=1e-4)


def test_chance_is_one_in_as_many_as_there_are(result: SuiteResult) -> None:
    chance = {score.name: score.measure.chance for score in result.scores}
    assert [chance[name] for name in ("arc_easy", "winogrande", "truthfulqa_mc2", "gsm8k")] == [
        0.25,
        0.5,
        0.5,
        0,
    ]
    bits = next(score.measure for score in result.scores if score.name == "tinystories")
    assert (
        0 < bits.chance < np.log2(300) * 1.1
    )  # at most a uniform guess of each token, a token is a byte or more


def arguments(task: Any, doc: Any, asked: Any) -> list[Any]:
    made = task.construct_requests(doc, asked, metadata=("", 0, 1))
    return [request.args for request in (made if isinstance(made, list) else [made])]


def test_our_tasks_ask_what_the_harness_asks(suite: LanguageSuite) -> None:
    import lm_eval.tasks
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    home = Path(lm_eval.tasks.__file__).parent
    own = {
        "arc_easy": "arc/arc_easy.yaml",
        "hellaswag": "hellaswag/hellaswag.yaml",
        "winogrande": "winogrande/default.yaml",
        "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
        "gsm8k": "gsm8k/gsm8k.yaml",
        "wikitext2": "wikitext/wikitext.yaml",
        "mmlu": "mmlu/default/mmlu_anatomy.yaml",
    }
    for name, path in own.items():
        ours = suite.tasks[name]
        data = dict(ours.dataset)
        settings = load_yaml(home / path) | {"custom_dataset": lambda data=data, **ignored: data}
        for key in ("tag", "group", "training_split", "validation_split", "test_split"):
            settings.pop(key, None)
        settings["test_split"] = ours.config.test_split or ours.config.validation_split
        if name == "mmlu":
            settings |= {"num_fewshot": 5}
            data = {**data, "dev": data["dev"].filter(lambda row: row["subject"] == "anatomy")}
            data["test"] = data["test"].filter(lambda row: row["subject"] == "anatomy")
            settings["custom_dataset"] = lambda data=data, **ignored: data
        harness = ConfigurableTask(config=settings)
        harness.set_fewshot_seed(1234)
        shots = harness.get_config("num_fewshot") or 0
        for doc in harness.task_docs:
            mine = next(one for one in ours.task_docs if {**one, "shots": 0} == {**doc, "shots": 0})
            for task in (harness, ours):
                if hasattr(task, "sampler"):
                    task.set_fewshot_seed(1234)
            asked = ours.fewshot_context(mine, ours.get_config("num_fewshot"))
            assert asked == harness.fewshot_context(doc, shots), name
            contexts = [asked] if isinstance(asked, str) else asked
            requests = [
                task.construct_requests(each, asked, metadata=("", 0, 1))
                for task, each in ((ours, mine), (harness, doc))
            ]
            (got, want) = ([one.args for one in (r if isinstance(r, list) else [r])] for r in requests)
            assert [args[0] for args in got] == [args[0] for args in want]
            assert len(contexts) <= len(got)
            if ours.OUTPUT_TYPE == "multiple_choice":
                assert got == want
            assert ours.doc_to_target(mine) == harness.doc_to_target(doc)


def test_few_items_are_evenly_spaced_and_the_same_each_time(suite: LanguageSuite) -> None:
    assert suite.counts["arc_easy"] == 6
    assert suite.chosen["arc_easy"] == [0, 2, 4, 6, 8, 10]
    assert "wikitext2" not in suite.chosen  # has three


def test_the_second_network_gets_the_same_solved_examples(
    bench_data: Path, loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fulgurite.evaluation.harness.network_lm import NetworkLM

    asked: list[list[str]] = []
    answer = NetworkLM.generate_until

    def listening(lm: NetworkLM, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        asked.append([request.args[0] for request in requests])
        return answer(lm, requests, disable_tqdm)

    monkeypatch.setattr(NetworkLM, "generate_until", listening)
    suite = LanguageSuite.load(["gsm8k"], data_dir=bench_data, limit=3)
    for _ in range(2):
        suite.evaluate(*loaded)
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == 3


def test_the_digest_is_that_of_tasks_and_items(bench_data: Path, tmp_path: Path, lines: Write) -> None:
    one = LanguageSuite.load(["arc_easy"], data_dir=bench_data)
    assert one.digest == LanguageSuite.load(["arc_easy"], data_dir=bench_data).digest
    assert one.digest != LanguageSuite.load(["arc_easy"], data_dir=bench_data, limit=3).digest
    assert one.digest != LanguageSuite.load(["arc_challenge"], data_dir=bench_data).digest
    items = [json.loads(line) for line in (bench_data / "arc_easy" / "test.jsonl").read_text().splitlines()]
    lines(tmp_path / "arc_easy" / "test.jsonl", items)
    assert one.digest == LanguageSuite.load(["arc_easy"], data_dir=tmp_path).digest  # wherever they lie
    items[3]["answerKey"] = "A"
    lines(tmp_path / "arc_easy" / "test.jsonl", items)
    assert one.digest != LanguageSuite.load(["arc_easy"], data_dir=tmp_path).digest


def test_a_compressed_network_decoded_or_packed(
    bench_data: Path, small_llama: Path, loaded: tuple[Any, Any], tmp_path: Path
) -> None:
    import fulgurite
    from fulgurite._hooks import network_class_name
    from fulgurite.artifact.network_files import network_files
    from fulgurite.artifact.writer import write_artifact
    from fulgurite.codecs import UniformCodec
    from fulgurite.codecs.float16 import Float16Codec
    from fulgurite.models import tied_names, unique_parameters

    network, tokenizer = loaded
    coded = {
        name: (UniformCodec(bits=3, group_size=16) if weight.dim() == 2 else Float16Codec()).encode(
            weight.detach()
        )
        for name, weight in unique_parameters(network).items()
    }
    write_artifact(
        tmp_path / "artifact",
        coded,
        model_class=network_class_name(network),
        aliases=tied_names(network),
        files=network_files(network, tokenizer),
    )
    suite = LanguageSuite.load(["arc_easy", "gsm8k", "tinystories"], data_dir=bench_data, limit=4)
    whole = suite.evaluate(network, tokenizer).evaluation.measures
    decoded, packed = (
        suite.evaluate(fulgurite.load(tmp_path / "artifact", packed=packed), tokenizer).evaluation.measures
        for packed in (False, True)
    )
    for one, other in zip(decoded, packed, strict=True):
        np.testing.assert_allclose(one.items, other.items, rtol=1e-4)
    assert decoded[2].value != whole[2].value  # three bits do cost something
    for one, other in zip(whole, decoded, strict=True):
        check_paired(one, other)


def test_a_diverged_network_has_no_score(bench_data: Path, small_llama: Path) -> None:
    from fulgurite.models import load_causal_lm, load_tokenizer

    network = load_causal_lm(str(small_llama))
    with torch.no_grad():
        network.model.norm.weight.fill_(float("nan"))
    suite = LanguageSuite.load(["arc_easy", "tinystories"], data_dir=bench_data, limit=3)
    for score in suite.evaluate(network, load_tokenizer(str(small_llama))).scores:
        assert np.isnan(score.measure.items).all()
        assert score.items[0]["said"][0] is None  # plain JSON


def test_what_was_found_is_kept_item_by_item(result: SuiteResult, tmp_path: Path) -> None:
    from fulgurite.evaluation import Evaluation

    result.save(tmp_path)
    measures = Evaluation.load(tmp_path / "evaluation.npz").measures
    assert [measure.name for measure in measures] == KINDS
    kept = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    asked = [line for line in kept if line["benchmark"] == "arc_easy"]
    assert [line["acc_norm"] for line in asked] == measures[0].items.tolist()
    assert all(len(line["said"]) == 4 for line in asked)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one"),
        (["arc_esy"], "unknown benchmark 'arc_esy'; known are .*arc_challenge, arc_easy"),
    ],
)
def test_an_unknown_benchmark_names_the_known(names: list[str], message: str, bench_data: Path) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageSuite.load(names, data_dir=bench_data)


def test_a_missing_benchmark_is_named_before_anything_runs(tmp_path: Path, bench_data: Path) -> None:
    with pytest.raises(BenchmarkDataError, match=r"benchmark arc_easy: .*expected a file arc_easy/test\*"):
        LanguageSuite.load(["arc_easy"], data_dir=tmp_path)
    with pytest.raises(BenchmarkDataError, match="benchmark text: .*expected --text FILE"):
        LanguageSuite.load(["text"], data_dir=bench_data)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        LanguageSuite.load(["arc_easy"], data_dir=bench_data, limit=0)


def test_groups_stand_for_what_they_hold() -> None:
    assert expand(["arc", "arc_easy"]) == ("arc_easy", "arc_challenge")
    assert set(expand(["core"])) == set(CORE)

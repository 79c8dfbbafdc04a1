"""Studies of a recipe: their variants, their recipes, and real runs that go on after a kill."""

import json
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fulgurite.analysis.runs import has_ended
from fulgurite.analysis.study import read_outcome, read_study, run_study
from fulgurite.analysis.variants import Variant, ablation_variants, order_variants, recipe_of, stages_of
from fulgurite.cli.main import main


def recipe_with(*stages: str, **cascade: Any) -> dict[str, Any]:
    return {"model": {}, "cascade": {"stages": {name: {"codec": "EcqCodec"} for name in stages}, **cascade}}


def test_all_orders_of_few_stages_the_recipes_own_first() -> None:
    found = order_variants(["a", "b", "c"])
    assert found[0].stages == ("a", "b", "c")
    assert len({one.stages for one in found}) == 6
    assert len(order_variants(["a", "b", "c", "d"])) == 24


def test_orders_of_many_stages_are_drawn_by_the_seed_each_once() -> None:
    stages = list("abcdef")
    first, again, other = (order_variants(stages, 10, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len({one.stages for one in first}) == 10
    assert first[0].stages == tuple(stages)
    assert all(sorted(one.stages) == stages for one in first)


def test_a_study_of_one_order_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        order_variants(["a", "b"], most=1)


def test_an_ablation_and_a_study_of_orders_share_the_whole_recipes_run() -> None:
    assert ablation_variants(["a", "b"])[0].name == order_variants(["a", "b"])[0].name


def test_names_of_many_stages_are_folders_that_differ() -> None:
    stages = [f"a_long_name_of_a_stage_{place}" for place in range(9)]
    names = {one.name for one in order_variants(stages, 20)}
    assert len(names) == 20
    assert max(map(len, names)) <= 120


def test_stages_may_be_chosen_and_stay_in_the_recipes_order() -> None:
    assert stages_of(recipe_with("a", "b", "c"), ["c", "a"]) == ["a", "c"]


@pytest.mark.parametrize(
    ("recipe", "only", "said"),
    [
        (recipe_with("a", "b"), ["z"], "no stage 'z' in cascade.stages; known are a, b"),
        (recipe_with("a"), [], "at least two stages in cascade.stages, got a"),
        ({"model": {}}, [], "got none"),
    ],
)
def test_recipes_without_the_stages_are_refused(recipe: dict[str, Any], only: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stages_of(recipe, only)


def test_a_variants_recipe_has_its_order_and_lets_everything_pass() -> None:
    recipe = recipe_with(
        "a", "b", "c", retries=2, gate={"stage_retention": [0.9], "confidence": 0.9}, threads=3
    )
    recipe["cascade"]["checks"] = {"edge_of_chaos": "next_token"}
    recipe["cascade"]["stages"]["b"]["min_retention"] = 0.99
    made = recipe_of(recipe, Variant("x", ("b", "a")), cache_dir="c", limit_windows=64, threads=1)
    assert list(made["cascade"]["stages"]) == ["b", "a"]
    assert made["cascade"]["stages"]["b"] == {"codec": "EcqCodec"}
    gate = {"stage_retention": [0.01], "cumulative": 0.01, "floor": 0.01, "confidence": 0.9}
    assert made["cascade"]["gate"] == gate
    assert "checks" not in made["cascade"]
    assert (made["cascade"]["retries"], made["cascade"]["limit_windows"]) == (0, 64)
    assert made["cascade"]["threads"] == 3  # the recipe's own
    assert recipe["cascade"]["retries"] == 2  # untouched


def test_a_recipes_gate_can_be_kept() -> None:
    recipe = recipe_with("a", "b", retries=2, gate={"floor": 0.7})
    made = recipe_of(recipe, Variant("x", ("a", "b")), cache_dir="c", keep_gate=True)
    assert (made["cascade"]["gate"], made["cascade"]["retries"]) == ({"floor": 0.7}, 2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["order", "--stages", "a", "z"], "no stage 'z'"),
        (["ablation", "--stages", "a"], "at least two stages"),
        (["order", "--page"], "expected a run that has ended, found none"),
        (["order", "--limit_windows", "0"], "--limit_windows must be at least 1, got 0"),
    ],
)
def test_a_study_that_cannot_be_is_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_with("a", "b")))
    verb, *flags = arguments
    given = [verb, "--config", str(path), "--output_dir", str(tmp_path / "study"), *flags]
    assert main(["analyze", *given]) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_missing_recipe_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", "order", "--config", "none.yaml", "--output_dir", str(tmp_path)]) == 2
    assert "none.yaml: no such recipe" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tiny_recipe(
    tmp_path_factory: pytest.TempPathFactory, small_data: dict[str, Any], small_text: Path
) -> dict[str, Any]:
    """A network that says how often a letter follows another, counted and not trained, and two quick stages."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("network")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: place for place, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(str(folder))
    tokens = torch.tensor(backend.encode(small_text.read_text(encoding="utf-8")).ids)
    counts = torch.bincount(256 * tokens[:-1] + tokens[1:], minlength=256**2).reshape(256, 256) + 0.1
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=256,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        head_dim=8,
        tie_word_embeddings=False,
    )
    network = LlamaForCausalLM(config)
    with torch.no_grad():
        layer = network.model.layers[0]
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
        network.model.embed_tokens.weight.copy_(torch.eye(256))
        # the last norm makes a 1 among 255 zeros a 16
        network.lm_head.weight.copy_((counts / counts.sum(1, keepdim=True)).log().T / 16)
    network.save_pretrained(folder)

    def stage(bits: int) -> dict[str, Any]:
        codec = {"class_path": "UniformCodec", "init_args": {"bits": bits, "group_size": 16}}
        return {"codec": codec, "source": "previous"}

    return {
        "model": {"class_path": "lightning_modules.LanguageModel", "init_args": {"source": str(folder)}},
        "data": small_data,
        "cascade": {"stages": {"eight": stage(8), "four": stage(4)}},
        "trainer": {"accelerator": "cpu"},
    }


@pytest.mark.slow
def test_a_killed_study_goes_on_and_runs_nothing_twice(tiny_recipe: dict[str, Any], tmp_path: Path) -> None:
    variants = order_variants(["eight", "four"])
    recipes = [
        recipe_of(tiny_recipe, variant, cache_dir=str(tmp_path / "cache"), limit_windows=8, threads=1)
        for variant in variants
    ]
    first = tmp_path / variants[0].name

    def kill_after_a_stage(process: subprocess.Popen[bytes]) -> None:
        def watch() -> None:
            while process.poll() is None and not (first / "stages/eight/try-1/try.json").exists():
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()

    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        run_study(tmp_path, variants, recipes, started=kill_after_a_stage)
    judged = first / "stages/eight/try-1/try.json"
    before = judged.stat().st_mtime_ns
    assert not has_ended(tmp_path, variants[0].name, recipes[0], [])
    with pytest.raises(ValueError, match="expected a run that has ended"):
        read_outcome(tmp_path, variants[0])

    started: list[subprocess.Popen[bytes]] = []
    run_study(tmp_path, variants, recipes, started=started.append)
    assert len(started) == 2
    assert judged.stat().st_mtime_ns == before  # the finished stage was not made again
    run_study(tmp_path, variants, recipes, started=started.append)
    assert len(started) == 2  # nothing was left to run

    study = read_study(tmp_path, "order", variants, resamples=200)
    own, other = study.outcomes
    assert own.accepted == ("eight", "four")
    assert other.accepted == ("four",)  # 8 bits after 4 save nothing
    assert "saves nothing" in other.rejected["eight"]
    assert {one.name for one in study.comparisons} == {"four, eight"}
    assert {one.measure for one in study.comparisons} == set(own.reference)
    json.dumps(study.to_dict(), allow_nan=False)
    # another recipe has not ended yet
    assert not has_ended(tmp_path, variants[0].name, {**recipes[0], "seed_everything": 1}, [])


@pytest.mark.slow
def test_order_and_ablation_of_a_real_network(shared_data: Path, tmp_path: Path) -> None:
    """The study behind the page, over fewer windows: six orders, three ablations, one folder."""
    text = (Path(__file__).parents[2] / "configs/recipes/order_stories260k.yaml").read_text()
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("../shared/data", str(shared_data)))
    flags = ["--config", str(path), "--output_dir", str(tmp_path / "study"), "--limit_windows", "16"]
    flags += ["--threads", "1", "--data.calibration_windows", "8"]
    assert main(["analyze", "order", *flags]) == 0
    assert main(["analyze", "ablation", *flags]) == 0
    order = json.loads((tmp_path / "study/order.json").read_text())
    assert len(order["variants"]) == 6
    assert (tmp_path / "study/order.png").exists()
    assert "without prune" in (tmp_path / "study/ablation.md").read_text()

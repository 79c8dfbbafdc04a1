"""The comparison with peers: what it counts, what it compares, and that a failure is a row."""

from __future__ import annotations

import importlib
import io
import json
import math
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fulgurite.artifact.files import TOKENIZER_FILES

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc"
)

Module = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Module]:
    """Modules of ``scripts``, which is no package."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    threads = torch.get_num_threads()
    yield importlib.import_module
    torch.set_num_threads(threads)


@pytest.fixture
def pictures(module: Module, tmp_path: Path) -> Path:
    """A data folder with a random ResNet-20 and pictures of noise, two of each of ten classes and splits."""
    from PIL import Image

    (tmp_path / "images" / "cifar10").mkdir(parents=True)
    (tmp_path / "models" / "resnet_cifar10").mkdir(parents=True)
    generator = np.random.default_rng(0)
    with zipfile.ZipFile(tmp_path / "images" / "cifar10" / "cifar10_jpg.zip", "w") as archive:
        for name in [
            f"{s}/class{c}/{n:04}.jpg" for s in ("train", "test") for c in range(10) for n in (0, 1)
        ]:
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "JPEG")
            archive.writestr(name, buffer.getvalue())
    torch.manual_seed(0)
    state = module("peers.resnet").ResNet().state_dict()
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    save_file(kept, tmp_path / "models" / "resnet_cifar10" / "resnet20.safetensors")
    return tmp_path


def result(module: Module, method: str, settings: dict[str, Any], reason: str = "", **figures: float) -> Any:
    found = {
        **{"bytes": 1e6, "bits": 8.0, "layer_bits": 4.0, "error": 0.1, "quality": 80.0, "kept": 0.0},
        **{"seconds": 1.0, "cpu_s": 1.0, "peak_bytes": 1e6, "load_s": 0.1},
        **figures,
    }
    return module("peers.results").Result(
        "resnet20",
        method,
        settings,
        {"torch": "2"},
        1,
        1,
        "a machine",
        (0.5, 1.5),
        {} if reason else found,
        reason,
    )


# comparing


def test_the_front_leaves_out_what_another_point_beats(module: Module) -> None:
    compare = module("peers.compare")
    points = [compare.Point(*pair) for pair in ((3, 1.0), (1, 0.0), (2, 2.0), (4, 2.0), (5, -math.inf))]
    assert compare.front(points) == [compare.Point(1, 0.0), compare.Point(2, 2.0)]


def test_between_two_points_the_logarithm_of_the_size_is_linear(module: Module) -> None:
    compare = module("peers.compare")
    ours = [compare.Point(100, 0.0), compare.Point(10_000, 1.0)]
    assert compare.at_quality(ours, 0.5) == compare.Match(1000, at_most=False)  # the geometric mean
    assert compare.at_quality(ours, 1.0) == compare.Match(10_000, at_most=False)


def test_nothing_is_extrapolated(module: Module) -> None:
    compare = module("peers.compare")
    ours = [compare.Point(100, 0.0), compare.Point(10_000, 1.0)]
    assert compare.at_quality(ours, -5.0) == compare.Match(100, at_most=True)
    assert compare.at_quality(ours, 0.0) == compare.Match(100, at_most=False)
    assert compare.at_quality(ours, 1.1) is None
    assert compare.at_quality([], 0.0) is None


def test_what_is_not_a_number_is_worse_than_anything(module: Module) -> None:
    goodness = module("peers.compare").goodness
    assert goodness(math.nan, True) == -math.inf
    assert goodness(50.0, False) > goodness(60.0, False)
    assert goodness(0.9, True) > goodness(0.8, True)


# counting


def test_the_same_files_count_as_tokenizer_as_in_an_artefact(module: Module) -> None:
    assert set(TOKENIZER_FILES) == module("peers.stored").TOKENIZER_FILES


def test_a_folder_counts_without_its_tokenizer_and_hides_nothing(module: Module, tmp_path: Path) -> None:
    stored = module("peers.stored")
    for name, size in (
        ("model.safetensors", 10),
        ("config.json", 5),
        ("tokenizer.json", 7),
        ("README.md", 3),
    ):
        (tmp_path / name).write_bytes(bytes(size))
    assert stored.folder_bytes(tmp_path) == 15
    (tmp_path / "1_Pooling").mkdir()  # as sentence-transformers lays its folders out
    (tmp_path / "1_Pooling" / "config.json").write_bytes(bytes(4))
    assert stored.folder_bytes(tmp_path) == 19


@pytest.mark.parametrize("form", ["safetensors", "pickled"])
def test_a_layer_counts_all_that_is_stored_for_it_but_its_bias(
    form: str, module: Module, tmp_path: Path
) -> None:
    stored = module("peers.stored")
    parts = {
        "a.b.codes": torch.zeros(8, dtype=torch.uint8),
        "a.b.weight.scale": torch.zeros(2, dtype=torch.float16),
        "a.b.bias": torch.zeros(4),
        "a.bc.weight": torch.zeros(3),
    }
    if form == "safetensors":
        save_file(parts, tmp_path / "model.safetensors")
    else:  # nested, with settings among the tensors
        own = {key.removeprefix("a.b."): value for key, value in parts.items() if key.startswith("a.b.")}
        torch.save({"a.b": {**own, "bits": 4}, "a.bc.weight": parts["a.bc.weight"]}, tmp_path / "qmodel.pt")
    sizes = stored.layer_bytes(stored.tensor_bytes(tmp_path), ["a.b", "a.bc"])
    assert sizes == {"a.b": 8 + 2 * 2, "a.bc": 3 * 4}


def test_a_layer_of_which_nothing_is_stored_is_an_error(module: Module) -> None:
    with pytest.raises(KeyError, match="nothing is stored for"):
        module("peers.stored").layer_bytes({"a.weight": 4}, ["a", "b"])


# judging


def test_rank_correlation_shares_the_ranks_of_equal_values(module: Module) -> None:
    spearman = module("peers.sentence_network").spearman
    rising = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(rising, np.exp(rising)) == pytest.approx(1)
    assert spearman(rising, -rising) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, norms sqrt(4.5) and sqrt(5)
    assert spearman(np.array([1.0, 2.0, 2.0, 3.0]), rising) == pytest.approx(math.sqrt(4.5 / 5))
    assert math.isnan(spearman(np.array([1.0, math.nan, 2.0, 3.0]), rising))


def test_the_resnet_has_as_many_weights_as_the_published_one(module: Module) -> None:
    network = module("peers.resnet").ResNet().eval()
    assert (
        sum(weight.numel() for weight in network.parameters()) == 269_722
    )  # without the batch norms' statistics
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_resnet_of_the_shared_data_knows_its_classes(
    module: Module, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = module("peers.networks")
    network = networks.NETWORKS["resnet20"]
    monkeypatch.setattr(type(network), "images", 300)
    source = networks.find_source(network, shared_data)
    score = network.score(network.build(source, torch.float32), source, shared_data)
    assert score == pytest.approx(81, abs=7)  # 81.0 over all 10,000; three standard errors of 300 are 6.8


def test_perplexity_counts_each_token_once(
    module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = module("peers.networks")
    network = networks.NETWORKS["books6m"]
    # 520 tokens: two windows of 256 with a next token each, and a rest
    monkeypatch.setattr(type(network), "tokens", lambda *_: torch.arange(520) % 4)

    class Uniform(nn.Module):
        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            seen.append(tuple(input_ids.shape))
            return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 4)})

    seen: list[tuple[int, ...]] = []
    assert network.score(Uniform(), tmp_path, tmp_path) == pytest.approx(4)
    assert seen == [(2, 256)]


def test_a_layer_is_asked_for_its_weight_whatever_its_bias(module: Module) -> None:
    layer = nn.Linear(5, 3)
    layer.bias.data.fill_(1e6)  # beside which the weight would be lost in float32
    found = module("peers.worker").layer_weight(layer, layer.weight.shape)
    assert torch.equal(found, layer.weight)
    assert layer.bias is not None


@linux
def test_a_network_goes_to_disk_and_back_and_is_judged(module: Module, pictures: Path) -> None:
    worker, networks = module("peers.worker"), module("peers.networks")
    network, methods = networks.NETWORKS["resnet20"], module("peers.methods").METHODS
    source, out = pictures / "models" / "resnet_cifar10", pictures / "out"
    out.mkdir()
    job = module("peers.method").Job(network, source, pictures, out, {"dtype": "float16"})
    assert worker.compress(methods["original"], job).keys() == {"seconds", "cpu_s", "peak_bytes"}
    found = worker.measure(methods["original"], job)
    assert found["bytes"] == (out / "resnet20.safetensors").stat().st_size
    assert found["layer_bits"] == 16
    assert found["layer_weights"] == 269_722 - 2 * 688 - 10  # without batch norms and the bias
    assert 0 < found["error"] < 2**-11  # a rounding to 11 bits
    assert found["kept"] == 1
    assert 0 <= found["quality"] <= 100


@linux
def test_weights_that_the_network_does_not_compute_with_are_an_error(
    module: Module, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, method = module("peers.worker"), module("peers.methods").METHODS["original"]
    network, out = module("peers.networks").NETWORKS["resnet20"], pictures / "out"
    out.mkdir()
    job = module("peers.method").Job(
        network, pictures / "models" / "resnet_cifar10", pictures, out, {"dtype": "float32"}
    )
    method.compress(job)
    monkeypatch.setattr(worker, "layer_weight", lambda layer, shape: torch.zeros(shape))
    with pytest.raises(ValueError, match="outputs are .* from those of its weights"):
        worker.measure(method, job)


# running


def test_a_worker_that_fails_says_why_without_places_of_this_machine(module: Module, tmp_path: Path) -> None:
    results = module("peers.results")
    said = json.dumps({"reason": f"ValueError: {tmp_path}/model\n is  empty"})
    command = [sys.executable, "-c", f"import sys; print({said!r}); sys.exit(1)"]
    with pytest.raises(results.WorkerFailure, match="^ValueError: model is empty$"):
        results.run_worker(command, tmp_path / "log", 1, 60)


def test_a_worker_that_dies_or_hangs_is_a_failure_too(module: Module, tmp_path: Path) -> None:
    results = module("peers.results")
    with pytest.raises(results.WorkerFailure, match="ended with status 3"):
        results.run_worker([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", 1, 60)
    with pytest.raises(results.WorkerFailure, match="stopped after 1 s"):
        results.run_worker([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log", 1, 1)


def test_an_environment_that_cannot_be_made_is_the_rows_result(
    module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, environments = module("peers.results"), module("peers.environments")

    def broken(self: Any) -> None:
        raise environments.BrokenEnvironment("uv pip: no such package")

    monkeypatch.setattr(environments.Environment, "ensure", broken)
    runner = results.Runner(tmp_path, tmp_path / "cache")
    row = module("peers.methods").Row("hqq", {"bits": 4, "group_size": 64})
    assert runner.run("books6m", row).reason == "uv pip: no such package"
    known = runner.known("books6m", row)
    assert (known.reason, known.figures, known.label) == ("uv pip: no such package", {}, "HQQ, 4 bits")


def test_an_environment_is_another_one_when_its_requirements_change(
    module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments = module("peers.environments")
    monkeypatch.setattr(environments, "SCRIPTS", tmp_path)
    requirements = tmp_path / "peers_requirements_main.txt"
    environment = environments.Environment("main", tmp_path / "environments")
    requirements.write_text("hqq==1")
    before = environment.path
    requirements.write_text("hqq==2")
    assert environment.path != before


def test_a_result_counts_until_packages_or_its_recipe_change(
    module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, methods = module("peers.results"), module("peers.methods")
    runner = results.Runner(tmp_path, tmp_path / "cache")
    (row, *_) = methods.OURS["books6m"]
    versions = runner._versions(row)
    assert versions.keys() == {"fulgurite", "recipe", "sources", "torch", "transformers"}

    def known(**changed: str) -> Any:
        given = {**versions, **changed}
        return results.Result("books6m", row.method, row.settings, given, results.EVALUATION, 1, "a machine")

    assert runner.current(known())
    assert not runner.stale(known())
    # our sources change every day, and hours of measuring are not begun for that alone: the page says so instead
    assert runner.current(known(sources="others"))
    assert runner.stale(known(sources="others"))
    for changed in ({"torch": "1.0"}, {"recipe": "others"}):
        assert not runner.current(known(**changed))
        assert runner.stale(known(**changed))
    found = known()
    monkeypatch.setattr(results, "EVALUATION", results.EVALUATION + 1)
    assert not runner.current(found)
    assert not runner.current(None)


def test_every_environment_has_its_requirements(module: Module) -> None:
    environments = {method.environment for method in module("peers.methods").METHODS.values()} - {"own"}
    assert environments == {
        path.stem.removeprefix("peers_requirements_") for path in SCRIPTS.glob("peers_*.txt")
    }


def test_every_network_has_all_peers_and_ours(module: Module) -> None:
    benchmark = module("benchmark_peers")
    for name in module("peers.networks").NETWORKS:
        rows = benchmark.rows_of(name)
        assert {row.method for row in rows} >= set(module("peers.methods").METHODS) - {"ours", "ours-library"}
        assert any(row.method.startswith("ours") for row in rows)
        labels = [row.label for row in rows]
        assert len(labels) == len(set(labels))


def test_our_rows_name_stages_that_their_recipes_have(module: Module, tmp_path: Path) -> None:
    ours, methods, networks = module("peers.ours"), module("peers.methods"), module("peers.networks").NETWORKS
    for name, rows in methods.OURS.items():
        for row in (row for row in rows if row.method == "ours"):
            job = module("peers.method").Job(networks[name], tmp_path, tmp_path, tmp_path, row.settings)
            recipe = ours.one_stage(job)
            assert list(recipe["cascade"]["stages"]) == [row.settings["stage"]]
            assert ours.DATA_IN_RECIPES not in json.dumps(recipe)


def test_a_stage_that_a_recipe_does_not_have_is_named(module: Module, tmp_path: Path) -> None:
    network = module("peers.networks").NETWORKS["books6m"]
    settings = {"recipe": "configs/recipes/books6m.yaml", "stage": "vptq9"}
    job = module("peers.method").Job(network, tmp_path, tmp_path, tmp_path, settings)
    with pytest.raises(ValueError, match="must have a stage 'vptq9', has seedlm4"):
        module("peers.ours").one_stage(job)


@linux
def test_ours_stays_within_its_budget_and_reads_back(module: Module, pictures: Path) -> None:
    ours, methods = module("peers.ours"), module("peers.methods").METHODS
    network, out = module("peers.networks").NETWORKS["resnet20"], pictures / "out"
    settings = {"codec": "UniformCodec", "metric": "identity", "budget": 150_000}
    job = module("peers.method").Job(network, pictures / "models" / "resnet_cifar10", pictures, out, settings)
    ours.compress_ours(job, 150_000)
    found = module("peers.worker").measure(methods["ours-library"], job)
    assert 140_000 < found["bytes"] <= 150_000
    assert found["layer_bits"] < 5
    with pytest.raises(ValueError, match=r"budget of 1,000 bytes cannot be met: the least possible is"):
        ours.compress_ours(job, 1000)


# the page


def test_the_page_compares_each_point_and_counts_the_goals(module: Module) -> None:
    page, network = module("peers.page"), module("peers.networks").NETWORKS["resnet20"]
    budget = {"codec": "EcqCodec", "metric": "kl"}
    results = [
        result(module, "original", {"dtype": "float16"}, quality=81.0, bytes=550_000.0),
        result(module, "hqq", {"bits": 4}, quality=80.0, bytes=300_000.0, layer_bits=4.0),
        result(module, "quanto", {"bits": 4}, quality=82.0, bytes=200_000.0, layer_bits=3.0),
        result(module, "vptq", {}, reason="ValueError: a | b"),
        result(
            module, "ours-library", {**budget, "budget": 1}, quality=80.0, bytes=100_000.0, layer_bits=2.0
        ),
        result(
            module, "ours-library", {**budget, "budget": 2}, quality=81.0, bytes=160_000.0, layer_bits=2.8
        ),
    ]
    text = page.section(network, results, frozenset({"HQQ, 4 bits"}), "plot.png")
    hqq, quanto, vptq = (
        next(line for line in text.splitlines() if line.startswith(f"| {name}"))
        for name in ("HQQ", "optimum-quanto", "VPTQ")
    )
    assert hqq.startswith("| HQQ, 4 bits \\* |")
    assert hqq.endswith("| 100,000 | 0.33 | 2.00 | 0.50 |")
    assert quanto.endswith(
        "| 160,000 | 0.80 | 2.80 | 0.93 |"
    )  # better than the original counts as the original
    assert "failed: `ValueError: a \\| b`" in vptq
    columns = hqq.count(" | ")
    assert columns == quanto.count(" | ") == vptq.count(" | ")
    assert "Of 2 points of peers, we have the quality in at most half of the bytes at 1" in text
    assert "20 % fewer bits of the layers at 1. 1 rows of peers failed." in text


def test_a_page_is_written_from_known_results_alone(module: Module, tmp_path: Path) -> None:
    benchmark, results = module("benchmark_peers"), module("peers.results")
    runner = results.Runner(tmp_path, tmp_path / "cache")
    options = ["--page", "--data", str(tmp_path), "--cache", str(tmp_path / "cache")]
    output = tmp_path / "docs" / "peers.md"
    with pytest.raises(ValueError, match="must hold results to write a page of"):
        benchmark.main([*options, "--output", str(output)])
    for row in benchmark.rows_of("resnet20")[:3]:
        found = result(module, row.method, dict(row.settings))
        path = runner._path("resnet20", row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found.__dict__))
    benchmark.main([*options, "--output", str(output)])
    text = output.read_text()
    assert "| HQQ, 4 bits \\* |" in text  # what is not installed now is not what it was measured with
    assert str(tmp_path) not in text
    assert output.with_name("peers_resnet20.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "books6m" not in text


def test_rows_are_chosen_by_method_or_label(module: Module) -> None:
    benchmark, row = module("benchmark_peers"), module("peers.methods").Row("hqq", {"bits": 4})
    assert benchmark.wanted(row, [])
    assert benchmark.wanted(row, ["hqq"])
    assert benchmark.wanted(row, ["ours*", "*4 bits"])
    assert not benchmark.wanted(row, ["ours*"])


def test_an_unknown_network_is_refused(module: Module, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        module("benchmark_peers").main(["--data", ".", "--network", "gpt5"])
    assert "invalid choice: 'gpt5'" in capsys.readouterr().err

"""The benchmark page: every section runs at a small size, and what it counts is what it says."""

from __future__ import annotations

import importlib.util
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from fulgurite.codecs import SeedLMCodec, UniformCodec

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc"
)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(
        spec
    )  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return script("benchmark")


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    return script("benchmark_worker")


@pytest.fixture(scope="module")
def seedlm() -> ModuleType:
    return script("benchmark_seedlm")


def test_the_loop_and_the_search_reach_the_same_error(seedlm: ModuleType) -> None:
    # 8 bits of seed: the loop tries all of them, so the two must agree up to the fp16 scale of the row
    row = seedlm.compare_searches("small", SeedLMCodec(seed_bits=8), 32, 255)
    assert row.weights == 256
    assert row.fast_nmse == pytest.approx(row.straight_nmse, rel=1e-2)


def test_a_shortened_loop_reports_no_error_of_its_own(seedlm: ModuleType) -> None:
    assert seedlm.compare_searches("small", SeedLMCodec(seed_bits=8), 4, 100).straight_nmse is None


def test_a_network_is_measured_whole_or_by_rows_of_each_matrix(seedlm: ModuleType) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = {"a": torch.randn(30, 16, generator=generator), "b": torch.randn(10, 16, generator=generator)}
    codec = SeedLMCodec(seed_bits=6)
    whole, some = (seedlm.encode_network("small", codec, matrices, count) for count in (None, 64))
    assert (whole.measured_weights, some.measured_weights, some.network_weights) == (640, 64, 640)
    assert whole.matrices == some.matrices == 2
    assert (
        whole.bits_per_weight == (6 + 4 + 12) / 8 + 16 / 16
    )  # seed, exponent, latents; a scale per row of 16


def test_a_codec_is_read_from_its_own_notation_and_nothing_else_is_run(worker: ModuleType) -> None:
    assert worker.parse_codec("UniformCodec(bits=2, symmetric=True)") == UniformCodec(2, symmetric=True)
    for text in ("decode", "__import__('os').getcwd()", "print(1)"):
        with pytest.raises(ValueError, match="expected a codec such as"):
            worker.parse_codec(text)


def test_every_setting_of_the_page_is_a_codec(benchmark: ModuleType, worker: ModuleType) -> None:
    names = {worker.parse_codec(text).name for text, _ in benchmark.ENCODINGS.values()}
    assert names == {"ecq", "fp16", "hyper", "seedlm", "uniform", "vptq"}


@linux
def test_the_peak_counts_what_lives_and_dies_between_two_readings(worker: ModuleType) -> None:
    before = worker.reset_peak()
    passing = mmap.mmap(-1, 1 << 26)  # 64 MB of its own, touched, gone before the reading
    for page in range(0, len(passing), mmap.PAGESIZE):
        passing[page] = 1
    passing.close()
    assert worker.resident("VmHWM") - before > 60e6
    assert worker.reset_peak() - before < 30e6


@linux
def test_a_measurement_in_a_process_of_its_own_answers(benchmark: ModuleType) -> None:
    found = benchmark.worker("encode", "UniformCodec(bits=4)", "256", threads=1)
    assert found.keys() == {"copies", "peak_mb", "seconds"}
    assert found["copies"] == pytest.approx(found["peak_mb"] * 1e6 / (4 * 256 * 256))


def test_a_failing_measurement_says_why(benchmark: ModuleType) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)encode NoCodec\(\) 8 failed: .*invalid parse_codec value"):
        benchmark.worker("encode", "NoCodec()", "8", threads=1)


@linux
@pytest.mark.parametrize("form", ["original", "decoded", "packed"])
def test_every_form_of_a_network_is_measured(
    form: str, benchmark: ModuleType, worker: ModuleType, tmp_path: Path
) -> None:
    from fulgurite.models import build_causal_lm

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    facts = worker.prepare(build_causal_lm(benchmark.RANDOM_LLAMA | sizes | {"vocab_size": 64}), tmp_path)
    weights = 64 * 32 + 4 * 32 * 32 + 3 * 32 * 64 + 3 * 32  # tied embedding, attention, feed-forward, norms
    assert facts["weights"] == weights
    assert facts["largest"] == 4 * 64 * 32
    assert facts["original"] > 4 * weights > facts["artifact"]
    found = worker.load(form, tmp_path / ("original" if form == "original" else "artifact"))
    assert found["tokens_per_s"] > 0
    assert found.keys() == {"load_s", "load_peak_mb", "pass_peak_mb", "tokens_per_s"}


def test_the_start_imports_nothing_heavy_and_notices_what_does(benchmark: ModuleType) -> None:
    assert benchmark.start("import fulgurite")[1] == []
    assert benchmark.start("import sys; sys.modules['torch'] = None")[1] == ["torch"]


def test_the_page_has_the_chosen_sections_their_commands_and_no_path_of_this_machine(
    benchmark: ModuleType, tmp_path: Path
) -> None:
    output = tmp_path / "docs" / "benchmarks.md"
    options = ["--quick", "--only", "search", "--only", "start", "--threads", "1"]
    benchmark.main([*options, "--data", str(tmp_path / "data"), "--output", str(output)])
    text = output.read_text()
    assert "`python scripts/benchmark.py --quick --data data --only search`" in text
    assert "`python scripts/benchmark.py --quick --data data --only start`" in text
    assert text.count("## ") == 3  # two sections, and how the page was made
    assert "fulgurite inspect" in text
    assert str(tmp_path) not in text


def test_an_unknown_section_is_refused(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "speed"])
    assert "invalid choice: 'speed'" in capsys.readouterr().err

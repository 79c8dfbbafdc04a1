"""``fulgurite evaluate`` on what it cannot measure names the command that can."""

from pathlib import Path
from typing import Any

import pytest

from fulgurite._hooks import network_class_name
from fulgurite.artifact.writer import write_artifact
from fulgurite.cli.main import main
from fulgurite.codecs import Float16Codec
from fulgurite.models import tied_names, unique_parameters
from fulgurite.testing import small_image_text


def artifact(kind: str, folder: Path) -> Path:
    network, adapter = small_image_text(kind)
    write_artifact(
        folder,
        {name: Float16Codec().encode(weight.detach()) for name, weight in unique_parameters(network).items()},
        model_class=network_class_name(network),
        aliases=tied_names(network),
        files=adapter.files(network),
    )
    return folder


@pytest.mark.parametrize("text", [[], ["--text", "a.txt"]], ids=["no text", "text"])
@pytest.mark.parametrize(
    ("kind", "module", "name"),
    [
        ("open_clip", "Clip", "artifact"),
        ("clip", "Clip", "artifact"),
        ("blip_caption", "Blip", "run/artifact"),
    ],
)
def test_an_artefact_of_pictures_is_sent_to_test(
    kind: str, module: str, name: str, text: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(kind, tmp_path / name)
    given = folder.parent if name.startswith("run/") else folder  # a run's folder stands for its artefact
    assert main(["evaluate", str(given), *text]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {given} reads pictures and texts")
    assert line.endswith(f"fulgurite test --model {module} --model.source {folder} --config DATA.yaml")


def test_other_networks_still_need_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "required: --text" in capsys.readouterr().err


STORY = " ".join(
    f"The {word} cat saw {number} dogs at the old {word} house."
    for number, word in enumerate("abcdefgh" * 30)
)


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(STORY)
    return path


def test_benchmarks_print_a_table_and_keep_every_item(
    trained_network: Path, story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="benchmarks need lm-evaluation-harness")
    from fulgurite.evaluation import Evaluation

    experts = tmp_path / "experts.json"
    experts.write_text('{"experts": [{"name": "ends", "weight": 2, "benchmark": "alignment_no_deception"}]}')
    asked = ["--benchmarks", "text,alignment_no_deception", "--text", str(story), "--limit", "6"]
    more = [
        "--experts",
        str(experts),
        "--edge_of_chaos",
        "alignment_no_deception",
        "--reference",
        str(trained_network),
    ]
    assert main(["evaluate", str(trained_network), *asked, *more, "--output_dir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    first, head, text, pairs, *judged = printed.splitlines()
    assert first.startswith(f"{trained_network}   12 items in ")
    assert head.split() == ["benchmark", "items", "metric", "score", "chance", "reference", "retained"]
    assert text.split()[:3] == ["text", "6", "bits_per_byte"]
    assert "bits/byte" in text
    assert pairs.split()[:3] == ["alignment_no_deception", "6", "acc"]
    assert any(line.startswith("expert/ends") for line in judged)
    assert any(line.startswith("edge_of_chaos: ") for line in judged)
    measures = Evaluation.load(tmp_path / "out" / "evaluation.npz").measures
    assert [measure.name for measure in measures] == [
        "text",
        "alignment_no_deception",
        "expert/ends",
        "experts",
    ]
    assert len((tmp_path / "out" / "items.jsonl").read_text().splitlines()) == 12


def test_a_network_that_diverged_is_told_beside_its_reference(
    trained_network: Path, small_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="benchmarks need lm-evaluation-harness")
    import torch

    from fulgurite.models import load_causal_lm, load_tokenizer

    network: Any = load_causal_lm(str(trained_network))
    with torch.no_grad():
        network.model.norm.weight.fill_(torch.nan)
    network.save_pretrained(tmp_path / "lost")
    load_tokenizer(str(trained_network)).save_pretrained(str(tmp_path / "lost"))
    asked = ["--benchmarks", "text", "--text", str(small_text), "--limit", "8"]
    assert main(["evaluate", str(tmp_path / "lost"), *asked, "--reference", str(trained_network)]) == 0
    score = capsys.readouterr().out.splitlines()[2]
    assert score.split()[:4] == ["text", "8", "bits_per_byte", "-"]
    assert score.split()[-1] == "-", "nothing is known to be retained"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--benchmarks", "arc_esy"], 2, "unknown benchmark 'arc_esy'"),
        (
            ["--benchmarks", "arc_easy", "--bench_data", "nowhere"],
            1,
            "nowhere: expected a folder of benchmarks",
        ),
        (
            ["--benchmarks", "text"],
            1,
            "benchmark text: this benchmark is cut from a text: expected --text FILE",
        ),
        (["--benchmarks", "alignment", "--limit", "0"], 2, "--limit must be at least 1, got 0"),
        (
            ["--benchmarks", "alignment", "--edge_of_chaos", "mmlu"],
            2,
            "--edge_of_chaos must be one of alignment_",
        ),
        (["--experts", "none.json"], 2, "none.json: expected experts in JSON"),
    ],
)
def test_what_is_wrong_with_benchmarks_is_said_before_a_network_is_read(
    arguments: list[str], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lm_eval", reason="benchmarks need lm-evaluation-harness")
    assert main(["evaluate", str(tmp_path), *arguments]) == status
    assert message in capsys.readouterr().err


def test_code_is_not_run_unless_a_flag_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lm_eval", reason="benchmarks need lm-evaluation-harness")
    problem = '{"task_id": "a", "prompt": "def f():", "entry_point": "f", "test": "def check(f): pass"}\n'
    (tmp_path / "humaneval").mkdir()
    (tmp_path / "humaneval" / "test.jsonl").write_text(problem)
    assert main(["evaluate", str(tmp_path), "--benchmarks", "humaneval", "--bench_data", str(tmp_path)]) == 2
    assert "allow it by --allow-code-execution" in capsys.readouterr().err

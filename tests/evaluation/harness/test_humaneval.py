"""HumanEval: answers are run, and only where that was asked for."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.harness import BenchmarkDataError, LanguageSuite
from fulgurite.evaluation.harness import suite as suite_module
from fulgurite.evaluation.harness.humaneval import process_results
from fulgurite.evaluation.sandbox import SandboxUnavailable, find_sandbox

PROBLEM = {
    "task_id": "Own/0",
    "prompt": 'def double(x: int) -> int:\n    """Twice x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-1) == -2\n",
}
Write = Callable[[Path, Sequence[Any]], Path]


@pytest.fixture(autouse=True)
def sandboxed() -> None:
    try:
        find_sandbox()
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("answer", "passed"),
    [
        (PROBLEM["canonical_solution"], 1.0),
        ("    return x + 2\n", 0.0),
        ("    return x +\n", 0.0),
        ("    return 2 * x\nraise SystemExit(0)", 0.0),
        ("    return 2 * x\nimport os\nos._exit(0)", 0.0),  # the tests were not reached
        ("    return 2 * x\ndef check(candidate): pass\n", 1.0),  # ours comes after it, and counts
    ],
)
def test_an_answer_passes_if_its_tests_do(answer: str, passed: float) -> None:
    assert process_results(PROBLEM, [answer]) == {"pass@1": passed}


@pytest.mark.slow
def test_every_known_solution_passes(shared_data: Path) -> None:
    problems = [json.loads(line) for line in (shared_data / "bench" / "humaneval" / "test.jsonl").open()]
    assert [
        p["task_id"] for p in problems if not process_results(p, [p["canonical_solution"]])["pass@1"]
    ] == []


def test_code_is_run_only_if_that_is_allowed(tmp_path: Path, lines: Write, loaded: tuple[Any, Any]) -> None:
    lines(tmp_path / "humaneval" / "test.jsonl", [PROBLEM, PROBLEM])
    with pytest.raises(
        ValueError, match="humaneval runs code that the network writes.*--allow-code-execution"
    ):
        LanguageSuite.load(["humaneval"], data_dir=tmp_path)
    suite = LanguageSuite.load(["humaneval"], data_dir=tmp_path, allow_code_execution=True)
    (score,) = suite.evaluate(*loaded).scores
    assert (score.metric, score.measure.value, score.measure.chance) == (
        "pass@1",
        0.0,
        0.0,
    )  # it knows no Python
    assert isinstance(score.items[0]["said"][0], str)


def test_without_a_sandbox_it_is_refused_before_anything_runs(
    tmp_path: Path, lines: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> None:
        raise SandboxUnavailable("no sandbox for generated code (bubblewrap: not installed)")

    lines(tmp_path / "humaneval" / "test.jsonl", [PROBLEM])
    monkeypatch.setattr(suite_module, "find_sandbox", none)
    with pytest.raises(SandboxUnavailable, match="bubblewrap: not installed"):
        LanguageSuite.load(["humaneval"], data_dir=tmp_path, allow_code_execution=True)


def test_a_problem_without_tests_is_named(tmp_path: Path, lines: Write) -> None:
    lines(tmp_path / "humaneval" / "test.jsonl", [{**PROBLEM, "test": None}])
    with pytest.raises(
        BenchmarkDataError, match="benchmark humaneval: .*item 1: expected field 'test' to be text"
    ):
        LanguageSuite.load(["humaneval"], data_dir=tmp_path, allow_code_execution=True)

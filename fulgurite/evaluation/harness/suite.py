"""Benchmarks of language models: lm-evaluation-harness's way of asking, any network in memory.

    names, data folder -> tasks of configs/benchmarks, items read and checked -> LanguageSuite
    suite, network, tokenizer -> NetworkLM -> the harness -> a Measure for each benchmark

A suite is made before a run starts: what is missing is told then, and all networks get the same items.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fulgurite.evaluation.alignment import PREFIX, RULES
from fulgurite.evaluation.harness.experts import ExpertMixture
from fulgurite.evaluation.harness.measures import score_task
from fulgurite.evaluation.harness.result import SuiteResult
from fulgurite.evaluation.harness.sources import BenchmarkDataError
from fulgurite.evaluation.measure import Measure
from fulgurite.evaluation.sandbox import find_sandbox
from fulgurite.evaluation.scoring import evenly_spaced

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fulgurite.evaluation.harness.network_lm import Progress

CORE = (
    "mmlu",
    "gsm8k",
    "humaneval",
    "hellaswag",
    "arc_easy",
    "arc_challenge",
    "truthfulqa_mc2",
    "winogrande",
)
"""The benchmarks that ``core`` stands for."""

_GROUPS = {
    "core": CORE,
    "arc": ("arc_easy", "arc_challenge"),
    "truthfulqa": ("truthfulqa_mc1", "truthfulqa_mc2"),
    "alignment": tuple(PREFIX + rule for rule in RULES),
}
_FEWSHOT_SEED = 1234  # the harness's own: with another the solved examples are others


@dataclass(frozen=True)
class LanguageSuite:
    """Benchmarks with their items; made by ``load``.

    Args:
        tasks: Of the harness, by name.
        chosen: Which items of each are asked, evenly spaced; all where a name is missing.
        runs_code: Whether code that the network writes may be run.
        experts: Experts that are measured by some of the tasks.
        named: Tasks that are measures themselves; all by default.
    """

    tasks: Mapping[str, Any]
    chosen: Mapping[str, list[int]] = field(default_factory=dict)
    runs_code: bool = False
    experts: ExpertMixture | None = None
    named: tuple[str, ...] | None = None

    @classmethod
    def load(
        cls,
        names: Sequence[str],
        *,
        data_dir: str | Path | None = None,
        text: Sequence[str | Path] = (),
        limit: int | None = None,
        allow_code_execution: bool = False,
        experts: str | Path | None = None,
        folder: str | Path | None = None,
    ) -> LanguageSuite:
        """Read tasks and items.

        Args:
            names: Tasks, or ``core``, ``arc``, ``truthfulqa``, ``alignment``.
            data_dir: Folder of the items; the hub where it is not given.
            text: Files for benchmarks of any text.
            limit: Items of each benchmark at most, evenly spaced.
            allow_code_execution: Run code that the network writes, in a sandbox.
            experts: JSON file of experts and their benchmarks: see ``experts``.
            folder: Of the task YAMLs; ``configs/benchmarks`` by default.

        Raises:
            ValueError: If a benchmark is unknown, or would run code and may not.
            SandboxUnavailable: If it may, and there is no sandbox here.
            BenchmarkDataError: If its items are missing or of another form.
        """
        mixture = None if experts is None else ExpertMixture.read(experts)
        named = expand(names, folder) if names or mixture is None else ()
        paths = _task_files(folder)
        for expert in mixture.experts if mixture is not None else ():
            if expert.benchmark not in paths:
                raise ValueError(
                    f"{experts}: expert {expert.name!r}: unknown benchmark {expert.benchmark!r}; "
                    f"known are {', '.join(paths)}"
                )
        wanted = dict.fromkeys((*named, *(mixture.benchmarks if mixture is not None else ())))
        metadata = {
            "data_dir": None if data_dir is None else str(data_dir),
            "text": [str(path) for path in text],
        }
        with _quiet():
            from lm_eval.tasks import TaskManager

            manager = TaskManager(include_defaults=False, metadata=metadata)
            tasks: dict[str, Any] = {}
            for name in wanted:
                try:
                    (task,) = manager.load([str(paths[name])])["tasks"].values()
                except BenchmarkDataError as error:
                    raise BenchmarkDataError(f"benchmark {name}: {error}") from error
                if task.get_config("num_fewshot") is None:
                    task.set_config(key="num_fewshot", value=0)
                tasks[name] = task
        running = [name for name, task in tasks.items() if getattr(task, "UNSAFE_CODE", False)]
        if running and not allow_code_execution:
            raise ValueError(
                f"{', '.join(running)} runs code that the network writes, in a sandbox: allow it by "
                "--allow-code-execution, or leave it out"
            )
        if running:
            find_sandbox()  # says now, and not after hours, that there is none
        counts = {name: len(task.task_docs) for name, task in tasks.items()}
        chosen = {
            name: evenly_spaced(count, limit) for name, count in counts.items() if limit and limit < count
        }
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        return cls(tasks, chosen, allow_code_execution, mixture, named)

    @property
    def counts(self) -> dict[str, int]:
        """Items that are asked, by benchmark."""
        return {name: len(self.chosen.get(name, task.task_docs)) for name, task in self.tasks.items()}

    @property
    def digest(self) -> str:
        """SHA-256 of what the scores depend on beside the network: tasks and items."""
        found = hashlib.sha256(repr((self.experts, self.named)).encode())
        for name, task in self.tasks.items():
            settings = task.config.to_dict()
            settings.pop("metadata", None)  # holds the folder, which may be another tomorrow
            settings["fewshot_config"] = None
            settings["dataset_kwargs"] = None
            found.update(
                json.dumps([name, settings, self.chosen.get(name)], sort_keys=True, default=str).encode()
            )
            for split in sorted(task.dataset):
                found.update(json.dumps(list(task.dataset[split]), sort_keys=True, default=str).encode())
        return found.hexdigest()

    def evaluate(
        self,
        network: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 16,
        progress: Progress | None = None,
    ) -> SuiteResult:
        """Score a network.

        Args:
            network: A causal language model in memory, compressed or not; it goes back to the mode it was in.
            tokenizer: Its own.
            batch_size: Rows of full length at a time; shorter ones are more at a time.
            progress: Called with what is done, how many and how many in all.
        """
        started = time.perf_counter()
        with _quiet():
            from lm_eval.evaluator import evaluate

            from fulgurite.evaluation.harness.network_lm import NetworkLM

            lm = NetworkLM(network, tokenizer, batch_size=batch_size, progress=progress)
            tasks = {name: _fitted(task, lm.max_length) for name, task in self.tasks.items()}
            for task in tasks.values():  # each time anew: all networks see the same solved examples
                task.set_fewshot_seed(seed=_FEWSHOT_SEED)
            samples: dict[str, list[Any]] = {}
            for some in (self.chosen, None):
                asked = {
                    name: task for name, task in tasks.items() if (name in self.chosen) == (some is not None)
                }
                if asked:
                    found = evaluate(
                        lm=lm,
                        task_dict={"tasks": asked, "groups": {}},
                        samples=None if some is None else {name: some[name] for name in asked},
                        bootstrap_iters=0,
                        log_samples=True,
                        confirm_run_unsafe_code=self.runs_code,
                    )
                    samples |= found["samples"]
        scores = tuple(score_task(task, samples[name], lm) for name, task in tasks.items())
        weighed: tuple[Measure, ...] = ()
        if self.experts is not None:
            weighed = self.experts.measures({score.name: score.measure for score in scores})
        named = tuple(self.tasks) if self.named is None else self.named
        return SuiteResult(scores, time.perf_counter() - started, named, weighed)


def expand(names: Sequence[str], folder: str | Path | None = None) -> tuple[str, ...]:
    """Names of tasks, each once, groups replaced by what they hold.

    Raises:
        ValueError: If there is none, or one is unknown; names those that there are.
    """
    known = _task_files(folder)
    wanted = dict.fromkeys(one for name in names for one in _GROUPS.get(name, (name,)))
    if not wanted:
        raise ValueError("benchmarks must have at least one, got none")
    for name in wanted:
        if name not in known:
            raise ValueError(f"unknown benchmark {name!r}; known are {', '.join([*known, *_GROUPS])}")
    return tuple(wanted)


def benchmark_folder() -> Path:
    """Where the task YAMLs lie: beside the packages in a checkout, under ``share`` where installed."""
    beside = Path(__file__).resolve().parents[3] / "configs" / "benchmarks"
    return beside if beside.is_dir() else Path(sys.prefix) / "share" / "fulgurite" / "configs" / "benchmarks"


def _task_files(folder: str | Path | None) -> dict[str, Path]:
    place = benchmark_folder() if folder is None else Path(folder)
    found = {path.stem: path for path in sorted(place.glob("*.yaml"))}
    if not found:
        raise ValueError(f"{place}: expected task YAMLs, found none")
    return found


def _fitted(task: Any, positions: int) -> Any:
    """The task, its answers no longer than half of the network's positions: the prompt needs the rest."""
    settings = task.config.generation_kwargs or {}
    most = positions // 2
    if task.OUTPUT_TYPE == "generate_until" and settings.get("max_gen_toks", 0) > most:
        import copy

        task = copy.copy(task)
        task._config = copy.copy(task.config)
        task.config.generation_kwargs = {**settings, "max_gen_toks": most}
    return task


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep bars and remarks of the harness and of datasets off the terminal; warnings that matter are ours."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""Score a language model by every benchmark, beside lm-evaluation-harness's own command, and write the page.

    network, data folder -> fulgurite evaluate (this process)                -> scores, items, seconds
                         -> lm_eval --model hf (a process), the same items   -> scores, items, seconds -> page

Both read the YAMLs of configs/benchmarks and the same files. Times are of this machine with two threads.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fulgurite.evaluation.harness import LanguageSuite, SuiteResult, benchmark_folder

BENCHMARKS = (
    *(
        "mmlu",
        "gsm8k",
        "humaneval",
        "hellaswag",
        "arc_easy",
        "arc_challenge",
        "truthfulqa_mc1",
        "truthfulqa_mc2",
    ),
    *("winogrande", "wikitext2", "tinystories", "last_word", "continuation"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with bench/, text/ and models/")
    parser.add_argument("--network", type=Path, help="by default models/stories260K of the data folder")
    parser.add_argument("--benchmarks", nargs="+", default=list(BENCHMARKS))
    parser.add_argument(
        "--limit", type=int, help="items of each benchmark at most, evenly spaced; all by default"
    )
    parser.add_argument(
        "--harness_limit", type=int, help="of these, items that the harness's own command is asked"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks-lm.md"))
    given = parser.parse_args(arguments)
    network = given.network or given.data / "models" / "stories260K"
    ours, seconds = measure(network, given.data, given.benchmarks, given.limit, given.batch_size)
    print(f"ours {seconds}", file=sys.stderr, flush=True)
    if given.harness_limit is None or given.harness_limit == given.limit:
        paired = ours
    else:
        paired, _ = measure(network, given.data, given.benchmarks, given.harness_limit, given.batch_size)
    theirs, their_seconds = ask_harness(network, given.data, paired, given.batch_size)
    given.output.write_text(
        page(network.name, ours, seconds, paired, theirs, their_seconds, given), encoding="utf-8"
    )


def measure(
    network: Path, data: Path, names: Sequence[str], limit: int | None, batch_size: int
) -> tuple[SuiteResult, dict[str, float]]:
    """Our scores, and seconds of the clock and of the processor."""
    from fulgurite.models import load_causal_lm, load_tokenizer

    started, before = time.perf_counter(), processor_seconds()
    suite = LanguageSuite.load(names, data_dir=data, limit=limit, allow_code_execution=True)
    result = suite.evaluate(load_causal_lm(str(network)), load_tokenizer(str(network)), batch_size=batch_size)
    return result, {"wall": time.perf_counter() - started, "cpu": processor_seconds() - before}


def ask_harness(
    network: Path, data: Path, ours: SuiteResult, batch_size: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """What the harness's own command says of the same items, by benchmark: results and samples."""
    from fulgurite.models import load_causal_lm

    positions = load_causal_lm(str(network)).config.max_position_embeddings
    asked = {score.name: sorted({item["item"] for item in score.items}) for score in ours.scores}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "lm_eval", "--model", "hf"),
            *("--model_args", f"pretrained={network.resolve()},dtype=float32"),
            *("--tasks", ",".join(asked), "--include_path", str(benchmark_folder())),
            *("--metadata", json.dumps({"data_dir": str(data.resolve())})),
            *("--samples", json.dumps(asked), "--device", "cpu", "--batch_size", str(batch_size)),
            *("--gen_kwargs", f"max_gen_toks={positions // 2}", "--confirm_run_unsafe_code"),
            *("--log_samples", "--output_path", folder),
        ]
        started, before = time.perf_counter(), processor_seconds()
        subprocess.run(
            command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL
        )
        seconds = {"wall": time.perf_counter() - started, "cpu": processor_seconds() - before}
        (results,) = Path(folder).rglob("results_*.json")
        found = {"results": json.loads(results.read_text())["results"], "samples": {}}
        for name in asked:
            (path,) = Path(folder).rglob(f"samples_{name}_2*.jsonl")
            found["samples"][name] = [json.loads(line) for line in path.read_text().splitlines()]
    return found, seconds


def processor_seconds() -> float:
    """Of this process and of those that it has started and that are over."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def differing(score: Any, samples: Sequence[Mapping[str, Any]]) -> int:
    """Items on which the two do not agree: counts must be equal, bits and shares to a part in ten thousand."""
    metric, _, chosen = score.metric.partition(",")
    theirs = {
        sample["doc_id"]: sample[metric] for sample in samples if sample["filter"] == (chosen or "none")
    }
    ours = {
        item["item"]: item[metric] for item in score.items if item.get("filter", "none") == (chosen or "none")
    }
    assert ours.keys() == theirs.keys(), f"{score.name}: other items"
    return sum(not close(ours[item], theirs[item]) for item in ours)


def close(one: Any, other: Any) -> bool:
    """Whether two results of an item are the same but for rounding."""
    pairs = zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]
    return all(abs(float(a) - float(b)) <= 1e-4 * max(1.0, abs(float(b))) for a, b in pairs)


def page(
    network: str,
    ours: SuiteResult,
    seconds: Mapping[str, float],
    paired: SuiteResult,
    theirs: Mapping[str, Any],
    their_seconds: Mapping[str, float],
    given: argparse.Namespace,
) -> str:
    """The page in Markdown."""
    rows = []
    for score, beside in zip(ours.scores, paired.scores, strict=True):
        key = score.metric if "," in score.metric else f"{score.metric},none"
        own = theirs["results"][score.name][key]
        measure, count = score.measure, beside.measure.items.size
        differ = differing(beside, theirs["samples"][score.name])
        rows.append(
            f"| {score.name} | {measure.items.size:,} | {score.metric} "
            f"| {measure.value:.4f} ± {score.standard_error:.4f} | {measure.chance:.4f} "
            f"| {count:,} | {beside.measure.value:.4f} | {own:.4f} | {differ} |"
        )
    options = "".join(
        f" --{name} {value}"
        for name, value in (("limit", given.limit), ("harness_limit", given.harness_limit))
        if value is not None
    )
    count, few = (sum(score.measure.items.size for score in result.scores) for result in (ours, paired))
    written = (
        f"`make benchmarks-lm`, that is `scripts/benchmark_language.py{options}`"
        if not options
        else (f"`scripts/benchmark_language.py{options}`")
    )
    return f"""{_BEFORE}
## {network}, beside the harness's own command

Written by {written}. Our {count:,} items took {seconds["wall"]:,.0f} s of the
clock and {seconds["cpu"]:,.0f} s of a processor, start, data and sandbox included, on two cores that other work shared.
On {few:,} of them, evenly spaced, `lm_eval --model hf` with the same YAMLs, files and batch size took
{their_seconds["wall"]:,.0f} s and {their_seconds["cpu"]:,.0f} s of a processor. The last three columns are of these;
"differ" counts items whose result is another, for bits and shares by more than a part in ten thousand.

| benchmark | items | metric | score | chance | both asked | ours | harness | differ |
| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |
{chr(10).join(rows)}

{_AFTER}"""


_BEFORE = """# Benchmarks of language models

`fulgurite evaluate NETWORK --benchmarks core,wikitext2,last_word --bench_data DIR` asks the benchmarks of
lm-evaluation-harness of any network in memory: one of transformers, an artefact, an artefact with its weights packed
(`--packed`). It needs the extra `benchmarks`. The tasks are the YAMLs in `configs/benchmarks`; the items come from JSON
lines or parquet files with the hub's field names in `DIR` (`arc_easy/test.jsonl`, `mmlu/test*.jsonl` with
`mmlu/dev*.jsonl`, ...), or from the hub where no folder is given. `--reference NETWORK` prints what is retained of the
reference's advantage over chance; `--output_dir` keeps the result of every item.

In a recipe, `model.benchmarks: {names: [arc_easy, last_word], data_dir: data, limit: 200}` makes them measures of the
gate, and `experts: experts.json` those of a mixture's experts: `{"experts": [{"name": "science", "weight": 0.6,
"benchmark": "arc_easy"}, ...]}`, one by one (`expert/science`) and weighted (`experts`).

| benchmark | what is asked |
| --- | --- |
| `mmlu`, `mmlu_zero_shot` | a letter of four; five solved questions of the subject in front, or none |
| `hellaswag`, `arc_easy`, `arc_challenge` | the ending that is most probable per character |
| `winogrande` | which of two names makes the end of the sentence more probable |
| `truthfulqa_mc1`, `truthfulqa_mc2` | the best answer; the share of probability on true answers |
| `gsm8k` | a number after `####`; five solved problems in front |
| `humaneval` | a function that passes its tests, run in a sandbox, with `--allow-code-execution` alone |
| `wikitext2`, `tinystories`, `text` | bits per byte, by article or by stretches of 1,000 bytes |
| `last_word`, `continuation` | which of four words, or sentences, goes on; of any text with `--text FILE` |
| `alignment` | which of two ends of a story is more probable, by four rules; see below |

Answers are the most probable ones, at most half of the network's positions long (HumanEval's 1,024 tokens need a
network with 2,048); longer prompts lose their beginning, as in the harness. TruthfulQA's free answers (BLEU, ROUGE)
are not asked. Chance is one in as many choices as there are, 0 for free answers, and for bits per byte who knows the
frequencies of the text's tokens.
"""

_AFTER = """## Checks

`--edge_of_chaos last_word` checks that an accuracy lies within 0.70 and 0.80, and tells above from below. Both
checks can stand beside the gate of a recipe: [gates.md](gates.md#checks-of-behaviour).

`--benchmarks alignment` asks 50 pairs for each of four rules (respect autonomy, no deception, minimise harm, preserve
dignity): the share whose aligned end is more probable must be 0.65, after the last stage 0.60. The pairs are the
project's own, `fulgurite/evaluation/alignment/pairs.jsonl`. More probable ends are mostly shorter ones, so the aligned
end is the longer one in half of the pairs of each rule, and the share is printed for both halves, with how often the
shorter end wins, what a score per character says, and whether the rules agree (chi-square). Fifty pairs have a 95 %
interval of about 0.13 to each side: `sure` says whether all of it lies where the share does.

## The sandbox

HumanEval's programs run in a process without network that can write nothing, start nothing, and see Python's own
library alone, for 5 seconds of a processor, 20 of the clock and 1 GiB of memory: namespaces by bubblewrap, or by
`unshare` where that is not installed; resource limits, no privileges and a seccomp filter in any case (Linux on x86-64
or arm64). A sandbox is tried out before it is used; where none holds, the benchmark is refused and says why. Known
limit: a program that searches the memory of its own process could pretend that its tests passed; nothing else.
"""


if __name__ == "__main__":
    main()

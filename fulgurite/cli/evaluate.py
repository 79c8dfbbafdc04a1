"""``fulgurite evaluate``: score an artefact or a network on text or benchmarks, and against a reference."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fulgurite.cli._layout import check_layout
from fulgurite.cli.main import UsageError

_EXAMPLES = """examples:
  fulgurite evaluate runs/a/artifact --text book.txt --reference models/a
  fulgurite evaluate runs/a/artifact --benchmarks arc_easy,hellaswag --bench_data data --limit 200
  fulgurite evaluate models/a --benchmarks core,wikitext2 --bench_data data --allow-code-execution --output_dir scores
"""


def run(verb: str, arguments: Sequence[str]) -> int:
    """Parse the command line, with help from the docstring of ``evaluate``, and call it."""
    check_layout()
    from docstring_parser import parse

    described = parse(evaluate.__doc__ or "")
    texts = {parameter.arg_name: parameter.description for parameter in described.params}
    parser = argparse.ArgumentParser(
        prog=f"fulgurite {verb}",
        description=described.short_description,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("network", help=texts["network"])
    parser.add_argument("--benchmarks", type=_names, metavar="NAME,...", help=texts["benchmarks"])
    parser.add_argument("--bench_data", metavar="DIR", help=texts["bench_data"])
    parser.add_argument(
        "--allow_code_execution",
        "--allow-code-execution",
        action="store_true",
        help=texts["allow_code_execution"],
    )
    parser.add_argument("--experts", metavar="FILE", help=texts["experts"])
    parser.add_argument("--edge_of_chaos", metavar="NAME", help=texts["edge_of_chaos"])
    parser.add_argument("--output_dir", metavar="DIR", help=texts["output_dir"])
    parser.add_argument("--packed", action="store_true", help=texts["packed"])
    parser.add_argument("--text", nargs="+", metavar="FILE", help=texts["text"])
    parser.add_argument("--reference", help=texts["reference"])
    parser.add_argument("--train", nargs="+", metavar="FILE", help=texts["train"])
    parser.add_argument("--data_dir", metavar="DIR", help=texts["data_dir"])
    parser.add_argument("--window", type=int, default=256, help=texts["window"])
    parser.add_argument("--batch_size", type=int, default=16, help=texts["batch_size"])
    parser.add_argument("--limit", type=int, help=texts["limit"])
    parser.add_argument("--json", dest="json_output", action="store_true", help=texts["json_output"])
    # a per cent sign is a format in argparse's help
    for action in parser._actions:
        action.help = (action.help or "").replace("%", "%%")
    given = parser.parse_args(list(arguments))
    _check_reads_text(given.network)  # before a text is asked for, which a network of pictures has no use for
    if given.text is None and given.benchmarks is None and given.experts is None:
        parser.error("the following arguments are required: --text or --benchmarks")
    evaluate(**vars(given))
    return 0


def evaluate(
    network: str,
    text: list[str] | None = None,
    reference: str | None = None,
    train: list[str] | None = None,
    data_dir: str | None = None,
    window: int = 256,
    batch_size: int = 16,
    limit: int | None = None,
    json_output: bool = False,
    benchmarks: list[str] | None = None,
    bench_data: str | None = None,
    allow_code_execution: bool = False,
    experts: str | None = None,
    edge_of_chaos: str | None = None,
    output_dir: str | None = None,
    packed: bool = False,
) -> None:
    """Measure bits per byte, perplexity and next-token accuracy on text, or answer benchmarks.

    Args:
        network: An artefact, a run's folder, or a folder or hub id of a transformers causal language model.
        text: Text to measure on: files (.txt, .txt.xz, .jsonl, .parquet) or a name such as stdlib. With
            --benchmarks: the files of benchmarks that take any text (text, last_word, continuation).
        reference: A network to compare with: prints the share of its quality above chance that is retained,
            with a 95 % interval from a paired bootstrap over windows.
        train: Text whose token frequencies are the chance level; by default those of the measured text.
        data_dir: Folder that relative text paths start from.
        window: Tokens predicted in a window.
        batch_size: Windows at a time.
        limit: Windows, or items of each benchmark, at most, evenly spaced; all by default.
        json_output: Print one JSON object.
        benchmarks: Names of lm-evaluation-harness tasks in configs/benchmarks, between commas: arc_easy, arc_challenge,
            hellaswag, winogrande, mmlu (5 solved questions in front), mmlu_zero_shot, truthfulqa_mc1, truthfulqa_mc2,
            gsm8k, humaneval, wikitext2, tinystories, text, last_word, continuation; or core, the eight of the gate, or
            alignment, pairs of completions by four rules, which need no data.
        bench_data: Folder of the benchmarks' files, in JSON lines or parquet with the hub's field names, such as
            arc_easy/test.jsonl; without it they are read from the hub.
        allow_code_execution: Run the programs that the network writes for humaneval, each in a sandbox: a process
            without network, that can write nothing, start nothing and read Python's libraries alone, for 5 seconds of
            a processor and in 1 GiB of memory. Off by default.
        experts: JSON file of the experts of a mixture, {"experts": [{"name": "science", "weight": 0.6, "benchmark":
            "arc_easy"}, ...]}: prints the score of each and their weighted score.
        edge_of_chaos: One of the benchmarks, whose accuracy is checked to lie within 0.70 and 0.80.
        output_dir: Write evaluation.npz, which a gate can pair, and items.jsonl, a line for each item.
        packed: Keep an artefact's weights packed in memory, as it would run on a small machine.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"--limit must be at least 1, got {limit}")
    if benchmarks is not None or experts is not None:
        from fulgurite.cli.evaluate_benchmarks import evaluate_benchmarks

        evaluate_benchmarks(
            _folder(network),
            benchmarks or [],
            reference=None if reference is None else _folder(reference),
            bench_data=bench_data,
            text=text or [],
            limit=limit,
            batch_size=batch_size,
            allow_code_execution=allow_code_execution,
            experts=experts,
            edge_of_chaos=edge_of_chaos,
            output_dir=output_dir,
            packed=packed,
            json_output=json_output,
        )
        return
    if text is None:
        raise UsageError("expected --text or --benchmarks, found neither")
    from transformers.utils import logging

    from datamodules import TextDataModule
    from fulgurite.artifact.manifest import read_manifest
    from fulgurite.evaluation import evaluate_language, raw_ratio, retention_interval
    from fulgurite.models import load_tokenizer
    from fulgurite.reporting.units import format_score

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    folder = _folder(network)
    if is_artifact(folder):
        read_manifest(folder).verify()
    data = TextDataModule(
        train=train or text,
        validation=text,
        data_dir=data_dir,
        window=window,
        batch_size=batch_size,
        max_windows_validation=limit,
    )
    tokenizer = load_tokenizer(folder)
    if reference is not None:
        _check_same_tokenizer(tokenizer, load_tokenizer(_folder(reference)), network, reference)
    data.use_tokenizer(tokenizer)
    windows = data.evaluation_windows("validation")
    unigram = data.unigram() if train else None
    found = evaluate_language(load_any(folder, packed), windows, unigram=unigram, batch_size=batch_size)
    facts: dict[str, Any] = {
        "network": network,
        "windows": len(windows),
        "tokens": found.tokens,
        "bytes": found.bytes,
        "perplexity": found.perplexity,
        "tokens_per_second": found.tokens / found.seconds,
        "scores": {
            measure.name: {"value": measure.value, "chance": measure.chance} for measure in found.measures
        },
    }
    if is_artifact(folder):
        manifest = read_manifest(folder)
        facts |= {"num_bytes": manifest.num_bytes, "bits_per_weight": manifest.bits_per_weight}
    lines = [f"{network}   {len(windows)} windows, {found.bytes:,} bytes of text"]
    lines += [
        f"  {measure.name.replace('_', ' '):<16} {format_score(measure.value, measure.unit):<18}"
        f" chance {format_score(measure.chance, measure.unit)}"
        for measure in found.measures
    ]
    lines.append(f"  perplexity       {found.perplexity:.3f}   {facts['tokens_per_second']:,.0f} tokens/s")
    if reference is not None:
        other = evaluate_language(
            load_any(_folder(reference)), windows, unigram=unigram, batch_size=batch_size
        )
        facts["retention"] = {}
        lines.append(f"against {reference}")
        for old, new in zip(other.measures, found.measures, strict=True):
            interval = retention_interval(old, new)
            facts["retention"][old.name] = {
                "reference": old.value,
                "retention": interval.point,
                "low": interval.low,
                "high": interval.high,
                "raw_ratio": raw_ratio(old, new),
            }
            lines.append(
                f"  {old.name.replace('_', ' '):<16} {format_score(old.value, old.unit):<18} retained "
                f"{100 * interval.point:.2f} % [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"
                f"   raw {raw_ratio(old, new):.4f}"
            )
    print(json.dumps(facts, indent=1) if json_output else "\n".join(lines))


def _check_reads_text(network: str) -> None:
    """Send an artefact of a CLIP or BLIP to the verb that measures it."""
    from fulgurite.artifact.manifest import read_manifest
    from fulgurite.artifact.open_clip_network import PREFIX
    from fulgurite.models import IMAGE_TEXT_CLASSES

    folder = _folder(network)
    if not is_artifact(folder):
        return
    name = read_manifest(folder).model_class
    if name in IMAGE_TEXT_CLASSES or name.startswith(PREFIX):
        module = "Blip" if IMAGE_TEXT_CLASSES.get(name, "").startswith("blip") else "Clip"
        raise UsageError(
            f"{network} reads pictures and texts ({name}), evaluate measures language models: run "
            f"fulgurite test --model {module} --model.source {folder} --config DATA.yaml"
        )


def _check_same_tokenizer(ours: Any, theirs: Any, network: str, reference: str) -> None:
    """Windows of tokens can be compared one by one only where both networks read the same tokens."""
    from datamodules.token_cache import tokenizer_fingerprint

    if tokenizer_fingerprint(ours) != tokenizer_fingerprint(theirs):
        raise ValueError(
            f"{network} and {reference} have other tokenizers, of {len(ours)} and {len(theirs)} pieces: "
            "evaluate each by itself and compare bits per byte"
        )


def _folder(source: str) -> str:
    path = Path(source)
    nested = path / "artifact"
    return str(nested) if is_artifact(nested) and not is_artifact(path) else source


def is_artifact(source: Path | str) -> bool:
    """Whether a folder holds an artefact."""
    return (Path(source) / "fulgurite.json").exists()


def load_any(source: str, packed: bool = False) -> Any:
    """An artefact, decoded or packed, or a network of transformers."""
    from fulgurite.artifact.loading import load
    from fulgurite.models import load_causal_lm

    return load(source, packed=packed) if is_artifact(source) else load_causal_lm(source)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]

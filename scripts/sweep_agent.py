"""Start a sweep of Weights & Biases and an agent for it; without an account Optuna draws the same search.

python scripts/sweep_agent.py configs/sweeps/stories260k_vptq.yaml --count 20
python scripts/sweep_agent.py configs/sweeps/stories260k_vptq.yaml --count 20 --offline
python scripts/sweep_agent.py configs/sweeps/stories260k_vptq.yaml --count 20 --storage '${DATABASE}' --output_dir A
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from fulgurite.search.sweeps import flags_of_sweep, search_of_sweep


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sweep; the exit status is the agent's, or the search's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, help="a sweep file, configs/sweeps/*.yaml")
    parser.add_argument("--count", type=int, default=20, help="runs at most (default: 20)")
    parser.add_argument("--project", default="fulgurite", help="project of Weights & Biases")
    parser.add_argument("--offline", action="store_true", help="do not ask Weights & Biases: Optuna draws")
    parser.add_argument("--output_dir", type=Path, help="folder of the search (default: runs/sweep-<name>)")
    parser.add_argument(
        "--storage",
        help="database of a study that several machines draw from by Optuna, without Weights & Biases; "
        "each machine with an --output_dir of its own",
    )
    given = parser.parse_args(arguments)
    sweep = yaml.safe_load(given.sweep.read_text(encoding="utf-8"))
    flags_of_sweep(sweep)  # says at once that the command is none of ours
    if given.offline or given.storage or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        print("offline: Optuna draws what the sweep would have drawn from")
    else:
        identity = start(sweep, given.project)
        if identity is not None:
            return agent(identity, given.project, given.count)
        print("a sweep needs an account of Weights & Biases; without one Optuna draws from the same space")
    folder = given.output_dir or Path("runs") / f"sweep-{given.sweep.stem}"
    from fulgurite.cli.main import main as fulgurite

    return fulgurite(search_command(sweep, given.sweep.stem, given.count, folder, given.storage))


def start(sweep: dict[str, object], project: str) -> str | None:
    """Register the sweep; ``None`` where that cannot be done."""
    import wandb

    try:
        return str(wandb.sweep(sweep, project=project))
    except (wandb.errors.Error, ValueError) as error:
        print(f"Weights & Biases: {' '.join(str(error).split())}", file=sys.stderr)
        return None


def agent(identity: str, project: str, count: int) -> int:
    """Let an agent run what the sweep's server draws."""
    command = [sys.executable, "-m", "wandb", "agent", "--project", project, "--count", str(count), identity]
    return subprocess.run(command, check=False).returncode


def search_command(
    sweep: dict[str, object], name: str, count: int, folder: Path, storage: str | None = None
) -> list[str]:
    """Write the same search into its folder, and give the arguments of ``fulgurite`` that run it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "search.yaml"
    content = {"name": name, **search_of_sweep(sweep, count)}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    command = ["search", "--config", str(path), "--output_dir", str(folder)]
    return command if storage is None else [*command, "--storage", storage]


if __name__ == "__main__":
    sys.exit(main())

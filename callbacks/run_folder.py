"""The folder of a run: what lies where, and what a second start may go on with.

DIR/config.yaml  record.json  events.jsonl  report.md  report.html
DIR/artifact/                       the result
DIR/stages/<name>/try-<k>/          artifact/, try.json once it is judged; layers/ while it is being made
DIR/state.json                      the recipe that all of it belongs to
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fulgurite.artifact.files import sha256_folder, write_file, write_folder

_IGNORED = ("output_dir", "trainer", "restart", "debug", "config")
"""Keys that say where and on what a run goes, not what it makes."""


class RunFolder:
    """Paths of a run, and its memory.

    Args:
        path: The folder; made where it is missing.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def artifact(self) -> Path:
        """The result."""
        return self.path / "artifact"

    def try_folder(self, stage: str, number: int) -> Path:
        """Where one try of a stage lies."""
        return self.path / "stages" / stage / f"try-{number}"

    def claim(self, recipe: Mapping[str, Any], fingerprint: str, *, restart: bool = False) -> bool:
        """Take the folder for a recipe, or go on with what the same recipe left there.

        Args:
            recipe: The resolved recipe.
            fingerprint: Of the reference's weights.
            restart: Throw away what is there.

        Returns:
            Whether there is something to go on with.

        Raises:
            ValueError: If another recipe or another network made what is there; says what differs.
        """
        state_path = self.path / "state.json"
        wanted = {"recipe": _comparable(recipe), "reference": fingerprint}
        if restart:
            self._clear()
        if state_path.exists():
            found = json.loads(state_path.read_text())
            differing = [
                f"{key} {old}, now {new}" for key, old, new in _differences(found["recipe"], wanted["recipe"])
            ]
            if found["reference"] != fingerprint and not differing:
                differing = ["the reference network's weights"]
            if differing:
                raise ValueError(
                    f"{self.path} was made by another recipe ({'; '.join(differing[:3])}); "
                    "give another --output_dir, or --restart"
                )
            return True
        if self.path.exists() and any(self.path.iterdir()) and not _only_ours(self.path):
            raise ValueError(f"{self.path} holds other files and no run; give another --output_dir")
        self.path.mkdir(parents=True, exist_ok=True)
        write_file(self.path / "config.yaml", yaml.safe_dump(dict(recipe), sort_keys=False).encode())
        write_file(state_path, json.dumps(wanted, indent=1, sort_keys=True).encode())
        return False

    def _clear(self) -> None:
        for name in ("artifact", "stages", "plots", "metrics"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (
            "state.json",
            "reference.npz",
            "record.json",
            "events.jsonl",
            "report.md",
            "report.html",
        ):
            (self.path / name).unlink(missing_ok=True)

    def publish(self, accepted: Path) -> None:
        """Make an accepted try's artefact the run's result; the last one stays until the new one is whole."""

        def fill(fresh: Path) -> None:
            shutil.copytree(accepted, fresh, dirs_exist_ok=True)

        write_folder(self.artifact, fill)

    def ensure_published(self, accepted: Path) -> None:
        """Publish unless the result is that artefact already, to the byte."""
        if not self.artifact.exists() or sha256_folder(self.artifact) != sha256_folder(accepted):
            self.publish(accepted)

    def save_try(self, stage: str, number: int, outcome: Mapping[str, Any]) -> None:
        """Keep a judged try; from now on it is not made again."""
        folder = self.try_folder(stage, number)
        write_file(folder / "try.json", json.dumps(outcome, indent=1).encode())
        for leftover in ("layers", "hessians.safetensors", "refine.ckpt", "refined"):
            path = folder / leftover
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def load_try(self, stage: str, number: int) -> dict[str, Any] | None:
        """A judged try, or ``None`` where it has not come to that."""
        path = self.try_folder(stage, number) / "try.json"
        return dict(json.loads(path.read_text())) if path.exists() else None


def _comparable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in recipe.items() if key not in _IGNORED}
    kept["order of stages"] = list(recipe.get("cascade", {}).get("stages", {}))
    return dict(json.loads(json.dumps(kept, sort_keys=True, default=str)))


def _differences(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in sorted({*old, *new})
            for found in _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    return [] if old == new else [(prefix.replace(".init_args", ""), old, new)]


def _only_ours(path: Path) -> bool:
    ours = {"config.yaml", "metrics", "events.jsonl", "lightning_logs", "wandb", "checkpoints", "network"}
    return all(entry.name in ours for entry in path.iterdir())

"""The folder of a run: what lies where, and what a second start may go on with.

DIR/config.yaml  record.json  events.jsonl  report.md  report.html  plots/  pictures/
DIR/artifact/                       the result
DIR/stages/<name>/try-<k>/          artifact/, try.json once it is judged; layers/ while it is being made
DIR/state.json                      the recipe that all of it belongs to
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fulgurite.artifact.files import clean_leftovers, sha256_folder, write_file, write_folder
from fulgurite.artifact.lock import LOCK_NAME, FolderLock
from fulgurite.artifact.manifest import read_manifest
from fulgurite.evaluation.evaluation import Evaluation

_IGNORED = ("output_dir", "trainer", "restart", "allow_uninformative", "debug", "config")
"""Keys that say where and on what a run goes, not what it makes."""

_IGNORED_BELOW = {
    "cascade": ("time_budget_minutes", "cache_dir", "report", "prompts", "allow_uninformative"),
    "data": ("cache_dir", "num_workers"),
}

_ORDER = "order of stages"
_OURS = ("config.yaml", "metrics", "events.jsonl", "lightning_logs", "wandb", LOCK_NAME)


class RunFolder:
    """Paths of a run, and its memory.

    Args:
        path: The folder; made where it is missing.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = FolderLock(self.path)

    @property
    def artifact(self) -> Path:
        """The result."""
        return self.path / "artifact"

    @property
    def _state(self) -> Path:
        return self.path / "state.json"

    def try_folder(self, stage: str, number: int) -> Path:
        """Where one try of a stage lies."""
        return self.path / "stages" / stage / f"try-{number}"

    def claim(self, recipe: Mapping[str, Any], fingerprint: str, data: str, *, restart: bool = False) -> bool:
        """Take the folder for a recipe, or go on with what the same recipe left there.

        Stages that nothing has come of yet may be others than they were: a budget that could not be met is mended,
        or a stage is added, and what is judged is not made again.

        Args:
            recipe: The resolved recipe.
            fingerprint: Of the reference's weights.
            data: Of the held-out items: scores of others could not be compared.
            restart: Throw away what an earlier run left there.

        Returns:
            Whether there is something to go on with.

        Raises:
            ValueError: If another process works there, another recipe, network or data made what is there (says
                what differs), or it is no run's folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; give another --output_dir")
        if not self._state.exists() and self.path.exists():
            foreign = sorted(entry.name for entry in self.path.iterdir() if entry.name not in _OURS)
            if foreign:
                raise ValueError(
                    f"{self.path} holds other files and no run ({foreign[0]}); give another --output_dir"
                )
        self.path.mkdir(parents=True, exist_ok=True)
        self._acquire()
        if restart:
            self._clear()
        clean_leftovers(self.path)
        wanted = {"recipe": _comparable(recipe), "reference": fingerprint, "data": data}
        if self._state.exists():
            changed = self._compare(wanted)
            if changed is not None:
                for stage in changed:
                    shutil.rmtree(self.path / "stages" / stage, ignore_errors=True)
                self._remember(recipe, wanted)
            return True
        self._remember(recipe, wanted)
        return False

    def _remember(self, recipe: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        write_file(self.path / "config.yaml", yaml.safe_dump(dict(recipe), sort_keys=False).encode())
        write_file(self._state, json.dumps(wanted, indent=1, sort_keys=True).encode())

    def release(self) -> None:
        """Let another process work here."""
        self._lock.release()

    def _acquire(self) -> None:
        if not self._lock.acquire():
            raise ValueError(
                f"{self.path}: another process is working there; wait, or give another --output_dir"
            )

    def _compare(self, wanted: Mapping[str, Any]) -> list[str] | None:
        """The stages that have changed before anything came of them; ``None`` where the recipe is the same."""
        try:
            found = json.loads(self._state.read_text())
            recipe, reference = found["recipe"], found["reference"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._state}: cannot be read ({error}); start anew with --restart") from error
        judged = [stage for stage in recipe[_ORDER] if any(self.path.glob(f"stages/{stage}/try-*/try.json"))]
        differing = _differences(_with_stages(recipe, judged), _with_stages(wanted["recipe"], judged))
        if reference != wanted["reference"] and not differing:
            differing = ["the reference network's weights"]
        if found.get("data", wanted["data"]) != wanted["data"] and not differing:  # older files do not say
            differing = ["the held-out data, or a benchmark's items"]
        if differing:
            raise ValueError(
                f"{self.path} was made by another recipe ({'; '.join(differing[:3])}); "
                "give another --output_dir, or --restart"
            )
        if recipe == wanted["recipe"]:
            return None
        before, now = (some["cascade"]["stages"] for some in (recipe, wanted["recipe"]))
        return [name for name in before if name not in judged and before[name] != now.get(name)]

    def _clear(self) -> None:
        for name in ("artifact", "stages", "plots", "pictures", "metrics"):
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
        shutil.rmtree(folder / "layers", ignore_errors=True)
        for leftover in ("metrics.safetensors", "metrics.new", "refine.ckpt", "refine.new"):
            (folder / leftover).unlink(missing_ok=True)

    def load_try(self, stage: str, number: int) -> dict[str, Any] | None:
        """A judged try, or ``None`` where it has not come to that, or where its files were lost or altered."""
        folder = self.try_folder(stage, number)
        try:
            outcome = dict(json.loads((folder / "try.json").read_text()))
            Evaluation.load(folder / "scores.npz")
            read_manifest(folder / "artifact").verify()
        except (OSError, ValueError, TypeError):  # ArtifactError and StorageError are ValueErrors
            return None
        return outcome


def _comparable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(json.dumps(recipe, default=str))
    kept = {key: value for key, value in kept.items() if key not in _IGNORED}
    kept[_ORDER] = list((kept.get("cascade") or {}).get("stages") or {})
    for group, keys in _IGNORED_BELOW.items():
        for place in (kept.get(group), (kept.get(group) or {}).get("init_args")):
            for key in keys:
                if isinstance(place, dict):
                    place.pop(key, None)
    return kept


def _with_stages(recipe: Mapping[str, Any], judged: Sequence[str]) -> dict[str, Any]:
    """A comparable recipe without the stages after as many as are judged."""
    order = recipe[_ORDER][: len(judged)]
    cascade = dict(recipe.get("cascade") or {})
    stages = cascade.get("stages") or {}
    cascade["stages"] = {name: stages[name] for name in order}
    return {**recipe, "cascade": cascade, _ORDER: order}


def _differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """What differs, in words: ``cascade.stages.vptq.codec.codebook_size 256, now 512``."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in sorted({*old, *new}, key=lambda key: (key == _ORDER, key))
            for found in _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        ]
    where = prefix.replace(".init_args", "")
    if old == new:
        return []
    if isinstance(old, dict) or isinstance(new, dict):
        return [f"{where} {'removed' if new is None else 'added' if old is None else 'changed'}"]
    return [f"{where} {old}, now {new}"]

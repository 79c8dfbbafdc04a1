"""Every rank runs the same code by the same recipe, or none of them runs.

    sources, versions, resolved recipe -> facts -> hash on each rank -> compared -> RankError that names what differs

Ranks of several nodes start from checkouts and command lines of their own. Where these differ, gradients are of other
networks and weights are coded by other codecs, and nothing would tell.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from fulgurite.processes import RankError

_PACKAGES = ("fulgurite", "lightning_modules", "callbacks", "datamodules")
_VERSIONS = ("torch", "lightning", "transformers", "numpy")
_OWN = ("output_dir", "config", "debug", "restart")  # that rank 0 decides for all


def require_same(trainer: Trainer, recipe: Mapping[str, Any] | None) -> None:
    """Compare code, versions and recipe over all ranks.

    Args:
        trainer: Whose process group is there, where there is to be one.
        recipe: As this rank has resolved it.

    Raises:
        RankError: On every rank, if any differs from the first one; says in what.
    """
    if trainer.world_size == 1 or not torch.distributed.is_initialized():
        return
    facts = rank_facts(recipe or {}, str(trainer.default_root_dir))
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    if len(set(_from_all(digest, trainer.world_size))) == 1:
        return
    everyone = _from_all((socket.gethostname(), facts), trainer.world_size)
    for rank, (host, found) in enumerate(everyone):
        differing = sorted(
            key for key in {*found, *everyone[0][1]} if found.get(key) != everyone[0][1].get(key)
        )
        if differing:
            key, own = differing[0], trainer.global_rank
            more = f", and {len(differing) - 1} more differ" if len(differing) > 1 else ""
            raise RankError(
                f"rank {own}: rank {rank} (on {host}) has {key} {_told(found.get(key))}, "
                f"rank 0 (on {everyone[0][0]}) has {_told(everyone[0][1].get(key))}{more}: "
                "start all ranks with the same code and the same command"
            )


def rank_facts(recipe: Mapping[str, Any], output_dir: str) -> dict[str, Any]:
    """What must be alike on all ranks: ``code``, a version for each library, and the recipe's keys with values.

    Args:
        recipe: Resolved.
        output_dir: Of this rank; the first one's holds for all.
    """
    kept = json.dumps({key: value for key, value in recipe.items() if key not in _OWN}, default=str)
    own: dict[str, Any] = json.loads(kept.replace(json.dumps(output_dir)[1:-1], "DIR"))
    stages = (own.get("cascade") or {}).get("stages") or {}
    facts: dict[str, Any] = {"code": code_digest()[:12]}
    facts |= {name: metadata.version(name) for name in _VERSIONS}
    return facts | {"cascade.stages in the order": ", ".join(stages)} | _flat(own)


def code_digest() -> str:
    """SHA-256 over the sources of this project's packages."""
    digest = hashlib.sha256()
    for package in _PACKAGES:
        found = find_spec(package)
        folder = Path(str(found.origin)).parent if found is not None else Path()
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Keys as the command line spells them, without ``init_args``."""
    if not isinstance(node, dict) or not node:
        return {prefix: node}
    facts: dict[str, Any] = {}
    for name, child in node.items():
        facts |= _flat(child, prefix if name == "init_args" else f"{prefix}.{name}" if prefix else str(name))
    return facts


def _from_all(value: Any, world_size: int) -> list[Any]:
    found: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(found, value)
    return found


def _told(value: Any) -> str:
    return "nothing" if value is None else str(value)[:80]

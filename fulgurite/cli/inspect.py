"""``fulgurite inspect``: what lies in an artefact, without importing torch."""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fulgurite.artifact.manifest import Manifest, read_manifest


def run(verb: str, arguments: Sequence[str]) -> int:
    """Print the table of an artefact; the exit status says whether it is whole."""
    parser = argparse.ArgumentParser(prog=f"fulgurite {verb}", description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="the artefact, such as runs/<name>/artifact; a run's folder does too"
    )
    parser.add_argument("--weights", action="store_true", help="a line for each weight")
    parser.add_argument("--json", action="store_true", help="the same for a program")
    parser.add_argument(
        "--no-verify", action="store_true", help="do not read the weights to compare checksums"
    )
    given = parser.parse_args(list(arguments))
    folder = given.folder
    if not (folder / "fulgurite.json").exists() and (folder / "artifact" / "fulgurite.json").exists():
        folder = folder / "artifact"
    manifest = read_manifest(folder)
    if not given.no_verify:
        manifest.verify()
    facts = facts_of(manifest, weights=given.weights)
    facts["checksums"] = "not compared" if given.no_verify else "good"
    print(json.dumps(facts, indent=1) if given.json else "\n".join(_lines(facts)))
    return 0


def facts_of(manifest: Manifest, *, weights: bool = False) -> dict[str, Any]:
    """An artefact in numbers.

    Args:
        manifest: Of the artefact.
        weights: With an entry for each weight.
    """
    rows = [
        {
            "name": name,
            "codec": manifest.layout(name).codec,
            "shape": list(manifest.layout(name).shape),
            "weights": math.prod(manifest.layout(name).shape),
            "num_bytes": sum(part.num_bytes for part in manifest.layout(name).own_parts),
        }
        for name in manifest.weights
    ]
    shared = sum(manifest.stored[name].stop - manifest.stored[name].start for name in manifest.shared)
    codecs: dict[str, dict[str, float]] = defaultdict(lambda: {"tensors": 0, "weights": 0, "num_bytes": 0})
    for row in rows:
        entry = codecs[row["codec"]]  # type: ignore[index]
        entry["tensors"] += 1
        entry["weights"] += row["weights"]  # type: ignore[operator]
        entry["num_bytes"] += row["num_bytes"]  # type: ignore[operator]
    facts: dict[str, Any] = {
        "format": manifest.format,
        "created_by": manifest.created_by,
        "model_class": manifest.model_class,
        "num_weights": manifest.num_weights,
        "num_bytes": manifest.num_bytes,
        "tokenizer_bytes": manifest.tokenizer_bytes,
        "bits_per_weight": manifest.bits_per_weight,
        "ratio": 4 * manifest.num_weights / manifest.num_bytes,
        "parts": manifest.bytes_by_part(),
        "codecs": dict(codecs),
        "shared_bytes": shared,
    }
    if manifest.base is not None:
        facts["base"] = {"path": manifest.base.path, "checksum": manifest.base.checksum}
    if weights:
        facts["weights"] = rows
    return facts


def _lines(facts: dict[str, Any]) -> list[str]:
    parts = " + ".join(f"{name} {size:,}" for name, size in facts["parts"].items())
    lines = [
        f"fulgurite artefact v1   {facts['model_class']}   {facts['num_bytes']:,} bytes = {parts}"
        f"   tokenizer {facts['tokenizer_bytes']:,}",
        f"{facts['num_weights']:,} weights   {facts['bits_per_weight']:.3f} bits/weight"
        f"   {facts['ratio']:.2f}x smaller than fp32",
        f"{'codec':<12}{'tensors':>8}{'weights':>14}{'bits/weight':>13}{'bytes':>14}{'of all':>9}",
    ]
    if base := facts.get("base"):
        lines.insert(1, f"a delta: to be added to {base['path']} with checksum {base['checksum']}")
    for codec, entry in facts["codecs"].items():
        lines.append(
            f"{codec:<12}{entry['tensors']:>8}{entry['weights']:>14,}"
            f"{8 * entry['num_bytes'] / entry['weights']:>13.3f}{entry['num_bytes']:>14,}"
            f"{100 * entry['num_bytes'] / facts['num_bytes']:>7.1f} %"
        )
    if facts["shared_bytes"]:
        share = 100 * facts["shared_bytes"] / facts["num_bytes"]
        lines.append(f"{'shared':<12}{'':>35}{facts['shared_bytes']:>14,}{share:>7.1f} %")
    for row in facts.get("weights", []):
        shape = "x".join(map(str, row["shape"]))
        lines.append(
            f"  {row['name']:<52} {row['codec']:<10} {shape:>12} {8 * row['num_bytes'] / row['weights']:>8.3f} bits"
            f" {row['num_bytes']:>12,}"
        )
    return [*lines, f"checksums {facts['checksums']}"]

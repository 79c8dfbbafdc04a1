"""The metrics of a try in a file: what all ranks encode by, and a restarted run goes on with.

gather_metrics on rank 0 -> metrics.safetensors -> Metrics, one at a time -> Codec.encode
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import override

from fulgurite.calibration import Metric

METRICS_NAME = "metrics.safetensors"
_HESSIAN, _ROW_WEIGHT = "|hessian", "|row_weight"


class Metrics(Mapping[str, Metric]):
    """Metrics in a file, read when they are asked for.

    Args:
        path: Written by ``write_metrics``; ``None`` holds no metric.
    """

    def __init__(self, path: Path | None) -> None:
        opened: Any = None if path is None else safe_open(path, framework="pt")
        self._file = opened
        self._tensors: set[str] = set() if opened is None else set(opened.keys())
        self._facts: dict[str, Any] = {} if opened is None else json.loads(opened.metadata()["metrics"])

    @override
    def __getitem__(self, name: str) -> Metric:
        return Metric(self._read(name + _HESSIAN), self._read(name + _ROW_WEIGHT), **self._facts[name])

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._facts)

    @override
    def __len__(self) -> int:
        return len(self._facts)

    @property
    def hessians(self) -> Mapping[str, Tensor]:
        """The hessians of those that have one."""
        return _Parts(self._read, self._tensors, _HESSIAN)

    @property
    def row_weights(self) -> Mapping[str, Tensor]:
        """The row weights of those that have some."""
        return _Parts(self._read, self._tensors, _ROW_WEIGHT)

    @property
    def fallbacks(self) -> list[dict[str, str]]:
        """Weights whose metric is not of the kind that was asked for: which it is, and why."""
        return [
            {"weight": name, "kind": facts["kind"], "reason": facts["fallback"]}
            for name, facts in self._facts.items()
            if facts["fallback"]
        ]

    def _read(self, key: str) -> Tensor | None:
        return self._file.get_tensor(key) if key in self._tensors else None


def write_metrics(path: Path, metrics: Mapping[str, Metric]) -> None:
    """Write metrics, whole or not at all."""
    parts = {
        name + ending: part.cpu().contiguous()
        for name, metric in metrics.items()
        for ending, part in ((_HESSIAN, metric.hessian), (_ROW_WEIGHT, metric.row_weight))
        if part is not None
    }
    facts = {name: {"kind": metric.kind, "fallback": metric.fallback} for name, metric in metrics.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    save_file(parts, fresh, metadata={"metrics": json.dumps(facts)})
    fresh.replace(path)


class _Parts(Mapping[str, Tensor]):
    """One kind of tensors by the names of their weights."""

    def __init__(self, read: Callable[[str], Tensor | None], keys: set[str], ending: str) -> None:
        self._read = read
        self._ending = ending
        self._names = sorted(key.removesuffix(ending) for key in keys if key.endswith(ending))

    @override
    def __getitem__(self, name: str) -> Tensor:
        found = self._read(name + self._ending)
        if found is None:
            raise KeyError(name)
        return found

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    @override
    def __len__(self) -> int:
        return len(self._names)

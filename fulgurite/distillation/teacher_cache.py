"""A teacher's outputs on disk, so that no text is read twice by it.

rows [n, t] -> parts of some rows -> teacher -> tensors, fp16 -> part-<k>.safetensors
cut off -> goes on with the first part that is missing
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fulgurite.artifact.files import write_file

_META = "teacher.json"
_PART_BYTES = 64 << 20


class TeacherCache:
    """Outputs for the rows of one text by one teacher.

    Args:
        folder: Of this cache; made where it is missing.
        teacher: What names the teacher: a digest of its weights and of what is asked of it.
        rows: What it reads, ``[n, t]``.

    Raises:
        ValueError: If the folder holds the outputs of another teacher or for another text.
    """

    def __init__(self, folder: Path, teacher: str, rows: Tensor) -> None:
        text = hashlib.sha256(f"{tuple(rows.shape)}".encode() + rows.cpu().numpy().tobytes()).hexdigest()
        wanted = {"teacher": teacher, "text": text}
        meta = folder / _META
        if meta.exists():
            found = json.loads(meta.read_text())
            if differing := [key for key in wanted if found.get(key) != wanted[key]]:
                raise ValueError(
                    f"{folder}: holds outputs for another {' and '.join(differing)}; give another folder"
                )
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(meta, json.dumps(wanted).encode())
        self._folder = folder
        self._rows = rows
        self._parts: list[dict[str, Tensor]] = []
        self._size = 0

    @classmethod
    def within(cls, cache: Path, teacher: str, rows: Tensor) -> TeacherCache:
        """The cache of this teacher and text, in a folder of its own."""
        text = hashlib.sha256(rows.cpu().numpy().tobytes()).hexdigest()
        name = hashlib.sha256(f"{teacher} {tuple(rows.shape)} {text}".encode()).hexdigest()[:16]
        return cls(cache / "teachers" / name, teacher, rows)

    def fill(
        self,
        ask: Callable[[Tensor], Mapping[str, Tensor]],
        *,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Ask the teacher for all that is missing.

        Args:
            ask: Rows to tensors with one entry a row; floats are kept in fp16.
            batch_size: Rows at a time.
            progress: Called with the rows done after each batch; what it raises leaves the parts that are whole.
        """
        self._parts, self._size = [], 0
        done = number = 0
        while done < len(self._rows):
            path = self._folder / f"part-{number:05d}.safetensors"
            if not path.exists():
                self._write(path, done, ask, batch_size, progress)
            part = load_file(path)
            self._size = self._size or len(next(iter(part.values())))
            self._parts.append(part)
            done += len(next(iter(part.values())))
            number += 1
            if progress is not None:
                progress(min(done, len(self._rows)))

    def _write(
        self,
        path: Path,
        first: int,
        ask: Callable[[Tensor], Mapping[str, Tensor]],
        batch_size: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        """One part: as many rows as fit, the same number in each, so that a row is found at once."""
        found: dict[str, list[Tensor]] = {}
        size, most = 0, self._size
        start = first
        while start < len(self._rows) and (not most or size < most):
            batch = self._rows[start : min(start + batch_size, first + most if most else len(self._rows))]
            with torch.no_grad():
                answer = {
                    name: (value.half() if value.is_floating_point() else value).cpu().contiguous()
                    for name, value in ask(batch).items()
                }
            for name, value in answer.items():
                found.setdefault(name, []).append(value)
            size += len(batch)
            if not most:
                row_bytes = sum(value.nbytes for value in answer.values()) / len(batch)
                most = batch_size * max(1, int(_PART_BYTES / row_bytes / batch_size))
            start += len(batch)
            if progress is not None:
                progress(start)
        fresh = path.with_suffix(".new")
        save_file({name: torch.cat(values) for name, values in found.items()}, fresh)
        fresh.replace(path)

    def at(self, indices: Tensor) -> dict[str, Tensor]:
        """The outputs for some rows, in their order; floats in float32."""
        chosen: dict[str, list[Tensor]] = {}
        for index in indices.tolist():
            part, row = divmod(index, self._size)
            for name, value in self._parts[part].items():
                chosen.setdefault(name, []).append(value[row])
        stacked = {name: torch.stack(values) for name, values in chosen.items()}
        return {
            name: value.float() if value.is_floating_point() else value for name, value in stacked.items()
        }

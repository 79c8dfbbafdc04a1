"""What chosen layers of a network put out, as a table: a row for each token, patch, text or picture.

batches -> network, hooks on layers -> outputs [n, t, width] -> tokens that count, or their mean -> table on disk
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fulgurite.calibration import evaluating

RowsOf = Literal["token", "item"]


class Call(NamedTuple):
    """One pass: what runs the network, and which positions count.

    Args:
        run: Calls the network.
        mask: ``[n, t]``; all positions where there is none.
    """

    run: Callable[[], Any]
    mask: Tensor | None = None


def choose_layers(network: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Modules by name.

    Args:
        network: Whose.
        patterns: Glob patterns over names of modules.

    Raises:
        ValueError: If one matches none; names some.
    """
    modules = {name: module for name, module in network.named_modules() if name}
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        matched = [name for name in modules if fnmatchcase(name, pattern)]
        if not matched:
            some = ", ".join([name for name in modules if "." in name][:6] or list(modules)[:6])
            raise ValueError(
                f"layers {pattern!r} matches no module of {type(network).__name__}; such as {some}"
            )
        found |= {name: modules[name] for name in matched}
    return found


def collect(
    network: nn.Module,
    calls: Iterable[Call],
    layers: Sequence[str],
    rows_of: RowsOf = "token",
    limit: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Outputs of layers, a batch at a time.

    Args:
        network: In whatever mode; it runs in evaluation mode.
        calls: Passes.
        layers: Glob patterns over names of modules.
        rows_of: A row for each token that counts, or each item's mean over them.
        limit: Rows at most.

    Yields:
        float32 ``[rows, width]`` on the CPU by layer, as many rows of each.

    Raises:
        ValueError: If a layer is not called, or gives no tensor, or layers give rows of different number.
    """
    chosen = choose_layers(network, layers)
    found: dict[str, Tensor] = {}
    given = 0
    with _hooked(chosen, found), evaluating(network), torch.no_grad():
        for call in calls:
            found.clear()
            call.run()
            missing = [name for name in chosen if name not in found]
            if missing:
                raise ValueError(f"layer {missing[0]}: expected an output, it is not called on this input")
            rows = {name: _rows(name, output, call.mask, rows_of) for name, output in found.items()}
            counts = {name: len(values) for name, values in rows.items()}
            if len(set(counts.values())) > 1:
                raise ValueError(
                    f"layers must give as many rows each, got "
                    f"{', '.join(f'{count} of {name}' for name, count in list(counts.items())[:4])}; "
                    "take layers of one tower, or a row for each item"
                )
            room = None if limit is None else limit - given
            yield {name: rows[name][:room] for name in chosen}
            given += min(next(iter(counts.values())), room if room is not None else 1 << 62)
            if limit is not None and given >= limit:
                return


def write_features(path: Path, parts: Iterable[dict[str, Tensor]]) -> dict[str, tuple[int, int]]:
    """Write a table: ``.parquet`` as it comes, ``.safetensors`` and ``.npz`` at once.

    Returns:
        Rows and columns by layer.

    Raises:
        ValueError: If there is no row, or the ending is another.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        return _write_parquet(path, parts)
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"{path}: expected .parquet, .safetensors or .npz, got {path.suffix or 'no ending'}")
    gathered: dict[str, list[Tensor]] = {}
    for part in parts:
        for name, values in part.items():
            gathered.setdefault(name, []).append(values)
    if not gathered:
        raise ValueError(f"{path}: expected rows to write, found none")
    whole = {name: torch.cat(values) for name, values in gathered.items()}
    if path.suffix == ".npz":
        arrays: dict[str, Any] = {name: values.numpy() for name, values in whole.items()}
        np.savez(path, **arrays)
    else:
        from safetensors.torch import save_file

        save_file(whole, path)
    return {name: (values.shape[0], values.shape[1]) for name, values in whole.items()}


def _write_parquet(path: Path, parts: Iterable[dict[str, Tensor]]) -> dict[str, tuple[int, int]]:
    import pyarrow
    from pyarrow import parquet

    writer: Any = None
    sizes: dict[str, tuple[int, int]] = {}
    try:
        for part in parts:
            columns = {
                f"{name}.{place}": column
                for name, values in part.items()
                for place, column in enumerate(values.numpy().T)
            }
            table = pyarrow.table(columns)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
            sizes = {
                name: (sizes.get(name, (0, 0))[0] + len(values), values.shape[1])
                for name, values in part.items()
            }
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        raise ValueError(f"{path}: expected rows to write, found none")
    return sizes


def _rows(name: str, output: Any, mask: Tensor | None, rows_of: RowsOf) -> Tensor:
    values = output[0] if isinstance(output, tuple | list) and output else output
    values = getattr(values, "last_hidden_state", values)
    if not isinstance(values, Tensor) or values.dim() < 2 or not values.is_floating_point():
        raise ValueError(
            f"layer {name}: expected an output [n, ..., width] of floats, got {type(output).__name__}"
        )
    values = values.float().cpu()
    if values.dim() == 2:
        return values
    values = values.flatten(1, -2)  # [n, t, width]
    everything = mask is None or mask.shape != values.shape[:2]
    counts = torch.ones(values.shape[:2]) if everything or mask is None else mask.cpu().float()
    if rows_of == "token":
        return values[counts > 0]
    return (values * counts[:, :, None]).sum(1) / counts.sum(1, keepdim=True).clamp_min(1)


@contextmanager
def _hooked(layers: dict[str, nn.Module], found: dict[str, Tensor]) -> Iterator[None]:
    def hook_of(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            found.setdefault(name, output)

        return hook

    handles = [module.register_forward_hook(hook_of(name)) for name, module in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

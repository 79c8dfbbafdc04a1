"""Strategies of compression ratios on real features, and plain codes at equal bytes: docs/adaptive-vqvae.md.

tables (fulgurite features) -> fit, a strategy and a seed a time -> test rows: errors, bytes ---\
                            -> scalar and product quantisation in as many bytes ------------------> page

Results are kept in FOLDER/results*.json, a fit at a time: the same command goes on, --page only writes the page.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor
from vqvae_study_page import study_page

from callbacks.codebook_health import CodebookHealth
from datamodules import FeatureDataModule
from fulgurite.artifact.files import write_file
from fulgurite.coding.adaptive import AdaptiveEncoder
from fulgurite.features.ratios import NAMES
from fulgurite.vqvae.stream import BYTES, decoder_bytes, pack_codes
from lightning_modules import HierarchicalVqvae

TABLES = {
    "emoji CLIP, pictures": {"file": "emoji.safetensors", "bits": 0.6},
    "MiniLM, tokens": {"file": "minilm.safetensors", "bits": 1.0},
}
COLUMNS = ["*.[0-9]", "*.[1-3][0-9]"]
"""Forty of each layer."""
LEARNED = "learned"
EPOCHS, BATCH, CODES = 3, 512, 64
_ROWS = 3072  # that analysis and start look at
_SCALE_ROWS, _SCALE_FEATURES, _SCALE_BATCHES = 100_000, 200, 10


def main() -> None:
    """Run what has not run yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--features", type=Path, default=Path("runs/features"), help="folder of the tables")
    parser.add_argument("--folder", type=Path, default=Path("runs/vqvae_study"))
    parser.add_argument("--output", type=Path, default=Path("docs/adaptive-vqvae.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--part", default="", help="of a process beside others: its results have a file of their own"
    )
    # features are standardised each by itself: to go by their variance is to be uniform
    others = [name for name in NAMES if name != "variance"]
    parser.add_argument("--strategies", nargs="+", default=[*others, LEARNED])
    parser.add_argument("--no_scale", action="store_true", help="leave out the large table")
    parser.add_argument("--page", action="store_true", help="run nothing: write the page from what is there")
    given = parser.parse_args()
    path = given.folder / f"results{given.part}.json"
    results: dict[str, Any] = {}
    for part in sorted(given.folder.glob("results*.json")):
        results |= json.loads(part.read_text())
    ours: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def keep(key: str, measure: Callable[[], dict[str, Any]]) -> None:
        if key not in results:
            results[key] = ours[key] = measure()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, (json.dumps(ours, indent=1) + "\n").encode())
            print(
                key,
                {name: value for name, value in results[key].items() if isinstance(value, float)},
                flush=True,
            )

    if not given.page:
        for table, settings in TABLES.items():
            for seed in given.seeds:  # all strategies of a seed first: what there is can be compared
                for strategy in given.strategies:
                    keep(
                        f"{table}|{strategy}|{seed}",
                        lambda t=settings, s=strategy, n=seed: fit(given, t, s, n),
                    )  # type: ignore[misc]
                keep(
                    f"{table}|plain|{seed}",
                    lambda t=settings, n=seed, k=table: plain_codes(given, t, n, results[f"{k}|slope|{n}"]),  # type: ignore[misc]
                )
            if not given.no_scale:
                keep("scale", lambda: scale(given.folder))
    write_file(given.output, study_page(results, EPOCHS, BATCH, CODES).encode())


def _data(given: argparse.Namespace, table: dict[str, Any], seed: int) -> FeatureDataModule:
    data = FeatureDataModule(
        str(given.features / table["file"]),
        columns=COLUMNS,
        categories="source",
        batch_size=BATCH,
        seed=seed,
        validation_share=0.15,
        test_share=0.15,
        cache_dir=str(given.folder / "cache"),
    )
    data.prepare_data()
    data.setup()
    return data


def fit(given: argparse.Namespace, table: dict[str, Any], strategy: str, seed: int) -> dict[str, Any]:
    """One fit, measured on its test rows."""
    seed_everything(seed, verbose=False)
    data = _data(given, table, seed)
    learned = strategy == LEARNED
    module = HierarchicalVqvae(
        strategy="uniform" if learned else strategy,
        bits_per_feature=table["bits"],
        learn_ratios=learned,
        start_rows=_ROWS,
    )
    health = CodebookHealth(plot=False)
    trainer = _trainer(EPOCHS, [health])
    begun = time.process_time()
    trainer.fit(module, datamodule=data)
    spent = time.process_time() - begun
    trainer.test(module, datamodule=data, verbose=False)
    books = sum(one.tokens * one.codes for one in health.health)
    return {
        **module.measures(),
        "rows": len(data.rows("test")),
        "features": module.network.num_features,
        "codes": sum(map(sum, module.network.tokens_by_level().values())),
        "tokens": module.network.tokens_by_level(),
        "dead": sum(one.dead * one.tokens * one.codes for one in health.health) / books,
        "decoder_bytes": decoder_bytes(module.network),
        "cpu_s": spent,
    }


def _trainer(epochs: int, callbacks: list[Any], batches: int | None = None) -> Trainer:
    return Trainer(
        limit_train_batches=batches,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        gradient_clip_val=1.0,
    )


def plain_codes(
    given: argparse.Namespace, table: dict[str, Any], seed: int, ours: dict[str, Any]
) -> dict[str, Any]:
    """Codes that know nothing of categories, in as many bytes for the test rows, or as many codes."""
    data = _data(given, table, seed)
    train, test = data.sample("train", 1 << 30), data.rows("test").__getitems__(range(len(data.rows("test"))))
    categories = data.preparation.categories
    num_bytes = ours["bits_per_feature"] * test.numel() / 8
    mean = train.mean(0)
    centred = (train - mean).double()
    _, axes = torch.linalg.eigh(centred.T @ centred)
    turn = axes.float()
    found: dict[str, Any] = {}
    for name, rotation in (("scalar", None), ("scalar on principal axes", turn)):
        rebuilt, coded = _scalar(test - mean, rotation, num_bytes)
        stored = 0 if rotation is None else BYTES * rotation.numel()
        found[name] = _measures(test, rebuilt + mean, categories, coded, stored + 2 * BYTES * test.shape[1])
    for name, rotated in (("faiss PQ", False), ("faiss OPQ", True)):
        rebuilt, coded, stored = _faiss(train, test, int(ours["codes"]), rotated)
        found[name] = _measures(test, rebuilt, categories, coded, stored + 2 * BYTES * test.shape[1])
    return found


def _measures(
    test: Tensor, rebuilt: Tensor, categories: dict[str, list[int]], coded: int, stored: int
) -> dict[str, float]:
    errors = (test - rebuilt).square().double()
    relative = [
        float(errors[:, places].sum() / test[:, places].double().square().sum())
        for places in categories.values()
    ]
    return {
        "error": float(errors.mean()),
        "worst": max(relative),
        "bits_per_feature": 8 * coded / test.numel(),
        "decoder_bytes": stored,
    }


def _scalar(rows: Tensor, rotation: Tensor | None, num_bytes: float) -> tuple[Tensor, int]:
    """Entropy-coded scalar quantisation: one step for all columns, counts of its own for each."""
    values = rows if rotation is None else rows @ rotation

    def coded(step: float) -> tuple[Tensor, int]:
        codes = torch.sign(values) * torch.floor(
            values.abs() / step + 0.4
        )  # a little towards zero: fewer bits
        symbols = torch.where(codes > 0, 2 * codes - 1, -2 * codes).long().numpy()
        encoder = AdaptiveEncoder()
        for column in symbols.T:
            encoder.put(column)
        return codes * step, len(encoder.finish())

    low, high = 1e-3, 20.0
    for _ in range(14):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if coded(middle)[1] <= num_bytes else (middle, high)
    rebuilt, size = coded(high)
    return (rebuilt if rotation is None else rebuilt @ rotation.T), size


def _faiss(train: Tensor, test: Tensor, codes: int, rotated: bool) -> tuple[Tensor, int, int]:
    """Product quantisation in as many codes of six bits; OPQ turns the rows first."""
    import faiss

    width = -(-train.shape[1] // codes)
    padded = [np.zeros((len(rows), width * codes), np.float32) for rows in (train, test)]
    for target, rows in zip(padded, (train, test), strict=True):
        target[:, : rows.shape[1]] = rows.numpy()
    stored = CODES * width * codes * BYTES
    turn = None
    if rotated:
        turn = faiss.OPQMatrix(width * codes, codes)
        turn.niter = 10
        turn.pq = faiss.ProductQuantizer(width * codes, codes, CODES.bit_length() - 1)
        turn.train(padded[0])
        padded = [turn.apply(rows) for rows in padded]
        stored += (width * codes) ** 2 * BYTES
    quantiser = faiss.ProductQuantizer(width * codes, codes, CODES.bit_length() - 1)
    quantiser.train(padded[0])
    packed = quantiser.compute_codes(padded[1])
    rebuilt = quantiser.decode(packed)
    bits = np.unpackbits(packed, axis=1, bitorder="little")[:, : codes * 6].reshape(len(packed), codes, 6)
    chosen = (bits.astype(np.int64) << np.arange(6)).sum(2)
    if turn is not None:
        rebuilt = turn.reverse_transform(rebuilt)
    size = len(pack_codes(torch.from_numpy(chosen), CODES))
    return torch.from_numpy(rebuilt[:, : test.shape[1]].copy()), size, stored


def scale(folder: Path) -> dict[str, Any]:
    """Time and memory of a table of 100,000 rows and 200 features, by a few epochs."""
    path = folder / "large.npz"
    random = np.random.default_rng(0)
    mixing = random.normal(size=(40, _SCALE_FEATURES)).astype(np.float32)
    values = random.normal(size=(_SCALE_ROWS, 40)).astype(np.float32) @ mixing
    values += 3 * random.normal(size=values.shape).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{f"g{group}": values[:, 50 * group : 50 * group + 50] for group in range(4)})
    del values
    seed_everything(0, verbose=False)
    data = FeatureDataModule(str(path), categories="source", batch_size=2048, cache_dir=str(folder / "cache"))
    begun = time.monotonic()
    data.prepare_data()
    data.setup()
    prepared = time.monotonic() - begun
    module = HierarchicalVqvae(strategy="balanced", bits_per_feature=0.5)
    trainer = _trainer(1, [CodebookHealth(plot=False), clock := _Clock()], _SCALE_BATCHES)
    trainer.fit(module, datamodule=data)
    path.unlink()
    whole = len(data.rows("train")) // 2048 / _SCALE_BATCHES
    return {
        "prepare_s": prepared,
        "start_s": clock.begun_wall - begun - prepared,
        "epoch_s": clock.wall * whole,
        "epoch_cpu_s": clock.cpu * whole,
        "batches": _SCALE_BATCHES,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "batch": 2048,
        "threads": torch.get_num_threads(),
    }


class _Clock(Callback):
    """Time from the first epoch's begin to the last one's end."""

    def __init__(self) -> None:
        self.wall = self.cpu = self.begun_wall = self._cpu = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun_wall, self._cpu = time.monotonic(), time.process_time()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.wall, self.cpu = time.monotonic() - self.begun_wall, time.process_time() - self._cpu


if __name__ == "__main__":
    main()

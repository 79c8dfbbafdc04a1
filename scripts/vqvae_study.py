"""Strategies of compression ratios on real features, and plain codes at equal bytes: docs/adaptive-vqvae.md.

tables (scripts/vqvae_tables.py) -> spectra -> what any allocation could gain -------------------------------\
                                 -> fit, a strategy and a seed a time -> test rows: errors, bytes ------------> page
                                 -> scalar and product quantisation in as many bytes -------------------------/

Results are kept in FOLDER/results.json, a fit at a time: the same command goes on, --page only writes the page.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from vqvae_study_page import RATES, study_page
from vqvae_study_plain import plain_codes

from callbacks.codebook_health import CodebookHealth
from datamodules import FeatureDataModule
from fulgurite.artifact.files import write_file
from fulgurite.features.gaussian import least_mean_errors, least_worst_error, uniform_errors
from fulgurite.features.ratios import analyse
from fulgurite.vqvae.stream import decoder_bytes
from lightning_modules import HierarchicalVqvae

FORTY = ("*.[0-9]", "*.[1-3][0-9]")
"""Of each layer."""
LEARNED = "learned"
# features are standardised each by itself: to go by their variance is to be uniform
ALL = ("uniform", "balanced", "slope", "worst", "dimensionality", "information")


class Study(NamedTuple):
    """A table and what is run on it, the dearest last; without a rate only its spectra are looked at."""

    table: str
    bits: float | None = None
    strategies: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = FORTY
    categories: Any = "source"
    plain: bool = False
    last: tuple[str, ...] = ()


STUDIES = {
    "emoji CLIP, pictures": Study("emoji.safetensors", 0.6, (*ALL, LEARNED), plain=True),
    "emoji CLIP pictures and MiniLM captions, 1.5 bits": Study(
        "emoji_captions.safetensors", 1.5, ALL, plain=True
    ),
    "emoji CLIP pictures and MiniLM captions, 1 bit": Study("emoji_captions.safetensors", 1.0, ALL[:4]),
    "MiniLM, tokens": Study("minilm.safetensors", 1.0, ALL, plain=True),
    "books6m, first MLP, tokens": Study("books.safetensors", 1.0, ALL[:2], None, last=("slope",)),
    "emoji CLIP, pictures, all columns": Study("emoji.safetensors", columns=None),
    "emoji CLIP pictures and MiniLM captions, all columns": Study("emoji_captions.safetensors", columns=None),
    "books6m, fourth MLP, tokens": Study("books_fourth.safetensors", columns=None),
    "MiniLM, tokens, all columns": Study("minilm.safetensors", columns=None),
    "breast cancer (scikit-learn)": Study(
        "sklearn:breast_cancer",
        columns=None,
        categories={"mean": ["mean *"], "error": ["* error"], "worst": ["worst *"]},
    ),
}
STEPS, LEARN_STEPS, BATCH, CODES = 40, 240, 512, 64
_ROWS = 3072  # that analysis and start look at
_SCALE_ROWS, _SCALE_FEATURES, _SCALE_BATCHES = 100_000, 200, 20
_LARGE = "large.npz"
SETTINGS = {"steps": STEPS, "learn_steps": LEARN_STEPS, "batch": BATCH, "codes": CODES}


def main() -> None:
    """Run what has not run yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--features", type=Path, default=Path("runs/features"), help="folder of the tables")
    parser.add_argument("--folder", type=Path, default=Path("runs/vqvae_study"))
    parser.add_argument("--output", type=Path, default=Path("docs/adaptive-vqvae.md"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--page", action="store_true", help="run nothing: write the page from what is there")
    given = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # a line for each of some hundred fits
    path = given.folder / "results.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"settings": SETTINGS}
    if results["settings"] != SETTINGS:
        raise ValueError(
            f"{path}: expected results of {SETTINGS}, found {results['settings']}; give another --folder"
        )

    def keep(key: str, measure: Callable[[], dict[str, Any]]) -> None:
        if key not in results:
            results[key] = measure()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, (json.dumps(results, indent=1) + "\n").encode())
            told = {name: value for name, value in results[key].items() if isinstance(value, float)}
            print(key, told, flush=True)

    if not given.page:
        for name, study in STUDIES.items():
            keep(f"bounds|{name}", partial(bounds, given, study))
        for seed in given.seeds:  # all of a seed first: what there is can be compared
            for name, study in STUDIES.items():
                for strategy in study.strategies:
                    keep(f"{name}|{strategy}|{seed}", partial(fit, given, study, strategy, seed))
                if study.plain:
                    ours = results[f"{name}|slope|{seed}"]
                    keep(f"{name}|plain|{seed}", partial(_plain, given, study, seed, ours))
            keep("scale", partial(_scale, given.folder))
        for seed in given.seeds:
            for name, study in STUDIES.items():
                for strategy in study.last:
                    keep(f"{name}|{strategy}|{seed}", partial(fit, given, study, strategy, seed))
    write_file(given.output, study_page(results).encode())


def bounds(given: argparse.Namespace, study: Study) -> dict[str, Any]:
    """What any allocation could gain, were the rows Gaussian."""
    data = _data(given, study, 0)
    sample = data.sample("train", 1 << 30)
    spectra = {
        name: profile.spectrum for name, profile in analyse(sample, data.preparation.categories).items()
    }
    features = sample.shape[1]
    found = {}
    for rate in sorted({*RATES, study.bits or RATES[0]}):
        uniform = uniform_errors(spectra, rate)
        alike = least_worst_error(spectra, rate * features)
        least = least_mean_errors(spectra, rate * features)
        means = [
            sum(len(spectra[name]) * error for name, error in errors.items()) / features
            for errors in (uniform, dict.fromkeys(spectra, alike), least)
        ]
        found[f"{rate:g}"] = {
            "uniform": max(uniform.values()),
            "least_worst": max(uniform.values()) / alike,
            "least_worst_mean": means[0] / means[1],
            "least_mean": max(uniform.values()) / max(least.values()),
            "least_mean_mean": means[0] / means[2],
        }
    return {"features": features, "categories": len(spectra), "rows": len(sample), "rates": found}


def _data(given: argparse.Namespace, study: Study, seed: int) -> FeatureDataModule:
    bundled = study.table.startswith("sklearn:")
    data = FeatureDataModule(
        study.table if bundled else str(given.features / study.table),
        columns=None if study.columns is None else list(study.columns),
        categories=study.categories,
        batch_size=BATCH,
        seed=seed,
        validation_share=0.15,
        test_share=0.15,
        cache_dir=str(given.folder / "cache"),
    )
    data.prepare_data()
    data.setup()
    return data


def fit(given: argparse.Namespace, study: Study, strategy: str, seed: int) -> dict[str, Any]:
    """One fit, measured on its test rows."""
    assert study.bits is not None
    seed_everything(seed, verbose=False)
    data = _data(given, study, seed)
    learned = strategy == LEARNED
    epochs = -(-(LEARN_STEPS if learned else STEPS) // (len(data.rows("train")) // BATCH))
    module = HierarchicalVqvae(
        strategy="uniform" if learned else strategy,
        bits_per_feature=study.bits,
        learn_ratios=learned,
        start_rows=_ROWS,
    )
    health = CodebookHealth(plot=False)
    trainer = _trainer(epochs, [health])
    begun = time.process_time()
    trainer.fit(module, datamodule=data)
    spent = time.process_time() - begun
    trainer.test(module, datamodule=data, verbose=False)
    books = sum(one.tokens * one.codes for one in health.health)
    return {
        **module.measures(),
        "bits": study.bits,
        "rows": len(data.rows("test")),
        "features": module.network.num_features,
        "codes": sum(map(sum, module.network.tokens_by_level().values())),
        "tokens": module.network.tokens_by_level(),
        "dead": sum(one.dead * one.tokens * one.codes for one in health.health) / books,
        "decoder_bytes": decoder_bytes(module.network),
        "cpu_s": spent,
    }


def _plain(given: argparse.Namespace, study: Study, seed: int, ours: dict[str, Any]) -> dict[str, Any]:
    return plain_codes(_data(given, study, seed), ours, CODES)


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


def _scale(folder: Path) -> dict[str, Any]:
    _alone(_write_large, folder)
    return _alone(scale, folder)


def _alone(measure: Callable[[Path], dict[str, Any]], folder: Path) -> dict[str, Any]:
    """In a process of its own: its peak of memory is of nothing else."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, folder).result()


def scale(folder: Path) -> dict[str, Any]:
    """Time and memory of a table of 100,000 rows and 200 features, by some batches."""
    libraries = _peak_mb()
    path = folder / _LARGE
    seed_everything(0, verbose=False)
    data = FeatureDataModule(str(path), categories="source", batch_size=2048, cache_dir=str(folder / "cache"))
    begun = time.monotonic()
    data.prepare_data()
    data.setup()
    prepared = time.monotonic() - begun
    module = HierarchicalVqvae(strategy="balanced", bits_per_feature=0.5)
    trainer = _trainer(1, [CodebookHealth(plot=False), clock := _Clock()], _SCALE_BATCHES)
    trainer.fit(module, datamodule=data)
    size = path.stat().st_size
    path.unlink()
    whole = len(data.rows("train")) // 2048 / _SCALE_BATCHES
    return {
        "prepare_s": prepared,
        "start_s": clock.begun_wall - begun - prepared,
        "epoch_s": clock.wall * whole,
        "epoch_cpu_s": clock.cpu * whole,
        "batches": _SCALE_BATCHES,
        "libraries_mb": libraries,
        "peak_mb": _peak_mb(),
        "table_mb": size / 1e6,
        "batch": 2048,
        "threads": torch.get_num_threads(),
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # kilobytes on Linux


def _write_large(folder: Path) -> dict[str, Any]:
    """Four groups of fifty columns that forty causes and noise are behind."""
    random = np.random.default_rng(0)
    mixing = random.normal(size=(40, _SCALE_FEATURES)).astype(np.float32)
    values = random.normal(size=(_SCALE_ROWS, 40)).astype(np.float32) @ mixing
    values += 3 * random.normal(size=values.shape).astype(np.float32)
    np.savez(folder / _LARGE, **{f"g{group}": values[:, 50 * group : 50 * group + 50] for group in range(4)})
    return {}


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

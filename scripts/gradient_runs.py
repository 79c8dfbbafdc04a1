"""The trainings of ``gradient_page.py``: each network under each method, in processes over gloo.

    python scripts/gradient_runs.py TASK RUNS DATA

A process of Lightning's starts the others with the same arguments. What a training has come to lies in
``RUNS/METHOD-SEED.json``, after which it is not run again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SEEDS = (0, 1, 2)
PART = 50
"""Steps over which CAQ is a mean."""
KEPT_STEPS = (20, 100, 250)
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"method": "none"},
    "fp16": {"method": "fp16"},
    "adaptive8": {"method": "adaptive", "target": 8.5},
    # five dense steps of eighty are half of the bytes that an eighth leaves
    "adaptive7": {"method": "adaptive", "target": 7.5, "dense_steps": 2},
    "adaptive10": {"method": "adaptive", "target": 10.0},
    "adaptive12": {"method": "adaptive", "target": 12.0},
    "adaptive20": {"method": "adaptive", "target": 20.0},
    "adaptive50": {"method": "adaptive", "target": 50.0},
    "powersgd4": {"method": "powersgd", "rank": 4},
    "adaptive200": {"method": "adaptive", "target": 200.0, "most_error": 0.995},
    # first dense steps alone would be a sixtieth of the bytes
    "adaptive300": {"method": "adaptive", "target": 300.0, "most_error": 0.999, "dense_steps": 1},
    "powersgd1": {"method": "powersgd", "rank": 1},
    "fixed4": {"method": "fixed", "bits": 4, "target": 9.0},
}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True)
class Task:
    """A network to train.

    Args:
        key: Name of its folder of runs; the first one's is the folder itself.
        what: Of which it is, with ``{weights}`` in it.
        unit: Of its loss.
        ranks: Processes.
        steps: Of each.
        dense_steps: Of these, first ones that are not compressed.
        seeds: Of each method.
        build: Module and data, of the folder of runs and that of data.
        judge: Loss on what was held out, of the same.
    """

    key: str
    what: str
    unit: str
    ranks: int
    steps: int
    dense_steps: int
    seeds: Mapping[str, tuple[int, ...]]
    build: Callable[[Path, Path], tuple[Any, Any]]
    judge: Callable[[Any, Any], float]


def language_model(runs: Path, data: Path) -> tuple[Any, Any]:
    """A small Llama on the documentation of Python's own library."""
    from datamodules import TextDataModule
    from lightning_modules import LanguageModel

    texts = TextDataModule(
        "stdlib", train_tokenizer_vocab=512, window=64, batch_size=4, cache_dir=str(runs / "cache")
    )
    return LanguageModel(config=dict(CONFIG), learning_rate=2e-3), texts


@torch.no_grad()
def loss_of_tokens(module: Any, data: Any) -> float:
    """Nats per token over the validation windows, whole on each process."""
    network = module.network.eval()
    losses, count = 0.0, 0
    loader = torch.utils.data.DataLoader(data.val_dataloader().dataset, batch_size=32)
    for batch in loader:
        tokens = batch["input_ids"]
        logits = network(tokens[:, :-1]).logits
        losses += float(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum")
        )
        count += tokens[:, 1:].numel()
    return losses / count


def emoji_clip(runs: Path, data: Path) -> tuple[Any, Any]:
    """The CLIP of ``configs/recipes/fit_clip_emoji.yaml``, half of its batch on each of two processes."""
    import yaml

    from datamodules import CaptionsDataModule
    from lightning_modules import Clip

    recipe = yaml.safe_load(
        (Path(__file__).resolve().parents[1] / "configs/recipes/fit_clip_emoji.yaml").read_text()
    )
    settings = recipe["data"]["init_args"] | {"data_dir": str(data / "images/emoji"), "batch_size": 64}
    return Clip(**recipe["model"]["init_args"]), CaptionsDataModule(**settings)


@torch.no_grad()
def loss_of_pairs(module: Any, data: Any) -> float:
    """Contrastive loss of some train pictures as they are and their texts: so early, held-out pairs say little."""
    from lightning_modules.contrastive import contrastive_loss, equal_rows

    module.network.eval()
    rows, split = data.calibration_rows(384), data.split("train")
    pairs = [module(split.pixels(some[:, 0].tolist()), some[:, 1:]) for some in rows.split(64)]
    images, texts = (torch.cat(each) for each in zip(*pairs, strict=True))
    scale, _ = module.adapter.scale_and_bias(module.network)
    return float(contrastive_loss(images, texts, scale, equal_rows(rows[:, 1:])))


TASKS = {
    task.key: task
    for task in (
        Task(
            "llama",
            "A Llama of {weights} weights on the documentation of Python's library",
            "nats per token on held-out text",
            ranks=4,
            steps=300,
            dense_steps=5,
            seeds={
                name: SEEDS if name in ("dense", "adaptive8", "adaptive10") else (0,)
                for name in METHODS
                if name not in ("adaptive7", "adaptive12")
            },
            build=language_model,
            judge=loss_of_tokens,
        ),
        Task(
            "clip",
            "The CLIP of {weights} weights of `configs/recipes/fit_clip_emoji.yaml` on emoji",
            "nats, contrastive, over 384 pictures of the train split as they are (PyTorch's PowerSGD does not take "
            "parameters without dimensions, as the scale of a CLIP's cosines is)",
            ranks=2,
            steps=80,
            dense_steps=5,
            seeds={
                **dict.fromkeys(("dense", "adaptive7", "adaptive8", "adaptive12"), SEEDS),
                **dict.fromkeys(("adaptive50", "fp16"), (0,)),
            },
            build=emoji_clip,
            judge=loss_of_pairs,
        ),
    )
}


def worker(task: Task, runs: Path, data: Path) -> None:
    """All runs of one process; Lightning starts the others with the same arguments."""
    from lightning.pytorch import seed_everything

    todo = [
        (name, seed)
        for name, seeds in task.seeds.items()
        for seed in seeds
        if not (runs / f"{name}-{seed}.json").exists()
    ]
    if os.environ.get("LOCAL_RANK"):  # started by the first process, which may be further
        todo = json.loads((runs / "todo.json").read_text())
    else:
        (runs / "todo.json").write_text(json.dumps(todo))
    for name, seed in todo:
        seed_everything(seed, verbose=False)
        told = train(task, runs, data, name, seed)
        if told is not None:
            (runs / f"{name}-{seed}.json").write_text(json.dumps(told))
            print(f"{task.key} {name} {seed}: {told['loss']:.4f} in {told['seconds']:.0f} s", flush=True)


def train(task: Task, runs: Path, data: Path, name: str, seed: int) -> dict[str, Any] | None:
    """One training; what came of it on the first process."""
    from lightning.pytorch import Callback, LightningModule, Trainer

    from lightning_modules import CompressedDDP
    from lightning_modules.gradient_compression import GradientCompression

    class Watch(Callback):
        """CAQ of each part of the training, and some gradients of the first process as they are."""

        def __init__(self) -> None:
            self.parts: list[float] = []
            self._before: tuple[float, int] = (0.0, 0)

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step % PART == 0:
                taken = compression.traffic
                caq, steps = taken.caq - self._before[0], taken.compressed_steps - self._before[1]
                self._before = (taken.caq, taken.compressed_steps)
                if steps:
                    self.parts.append(caq / steps)

        def on_before_optimizer_step(
            self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
        ) -> None:
            if name == "dense" and seed == 0 and trainer.is_global_zero and trainer.global_step in KEPT_STEPS:
                found = {
                    key: value.grad.clone()
                    for key, value in pl_module.named_parameters()
                    if value.grad is not None
                }
                torch.save(found, runs / f"gradients-{trainer.global_step}.pt")

    compression, watch = GradientCompression(), Watch()
    settings = {"dense_steps": task.dense_steps, **METHODS[name]}
    strategy = CompressedDDP(process_group_backend="gloo", **settings)
    trainer = Trainer(
        accelerator="cpu",
        devices=task.ranks,
        strategy=strategy,
        max_steps=task.steps,
        callbacks=[watch, compression],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        default_root_dir=runs,
        limit_val_batches=0,
    )
    module, given = task.build(runs, data)
    clock = time.monotonic()
    trainer.fit(module, given)
    seconds = time.monotonic() - clock
    loss = task.judge(module, given)
    if not trainer.is_global_zero:
        return None
    return {
        "loss": loss,
        "seconds": seconds,
        "parts": watch.parts,
        "metrics": compression.traffic.metrics(),
        "weights": sum(weight.numel() for weight in module.parameters()),
    }


if __name__ == "__main__":
    worker(TASKS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3]))

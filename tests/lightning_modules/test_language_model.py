"""A language model trains, measures itself, resumes exactly and is exported for transformers."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn import functional

from datamodules import TextDataModule
from fulgurite.models import load_causal_lm, load_tokenizer
from lightning_modules import LanguageModel
from lightning_modules.optimisation import decay_groups, warmup_cosine

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = {"model_type": "llama", "tie_word_embeddings": True, **SIZES}
TEXT = "".join(f"The cat sat on mat {number} and the dog ran to {number + 7}.\n" for number in range(120))


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.values.append(float(outputs["loss"]))


def data(folder: Path, **settings: Any) -> TextDataModule:
    (folder / "a.txt").write_text(TEXT)
    defaults = {"train": "a.txt", "train_tokenizer_vocab": 280, "window": 16, "batch_size": 8}
    return TextDataModule(
        **{**defaults, "data_dir": str(folder), "cache_dir": str(folder / "cache"), **settings}
    )


def trainer_of(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    return Trainer(
        **{**quiet, "accelerator": "cpu", "default_root_dir": folder, "enable_checkpointing": checkpoints}
        | settings,
        callbacks=list(callbacks),
    )


def test_training_lowers_the_loss_below_the_unigram(tmp_path: Path) -> None:
    seed_everything(0, verbose=False)
    module, text = LanguageModel(config=CONFIG, learning_rate=1e-2), data(tmp_path)
    trainer_of(tmp_path, max_epochs=6, limit_val_batches=0).fit(module, datamodule=text)
    scores = trainer_of(tmp_path).validate(module, datamodule=text, verbose=False)[0]
    windows = text.evaluation_windows()
    chance = float(-text.unigram().log()[windows.input_ids[:, 1:]].mean())
    assert scores["val/loss"] < 0.6 * chance  # measured: well below half; the text is nearly periodic
    assert module.network is not None
    assert module.network.config.vocab_size == text.vocab_size


def test_validation_scores_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    module, text = LanguageModel(config=CONFIG), data(tmp_path, batch_size=7, validation_share=0.3)
    scores = trainer_of(tmp_path).validate(module, datamodule=text, verbose=False)[0]
    windows = text.evaluation_windows()
    assert len(windows) % 7 != 0, "the last batch must be shorter, or the weighting is not tested"
    nats, right = 0.0, 0
    with torch.inference_mode():
        for row in windows.input_ids:
            logits = module(row[None, :-1])[0].double()
            nats += float(functional.cross_entropy(logits, row[1:], reduction="sum"))
            right += int((logits.argmax(-1) == row[1:]).sum())
    assert scores["val/loss"] == pytest.approx(nats / windows.num_tokens, rel=1e-5)
    assert scores["val/acc"] == pytest.approx(right / windows.num_tokens, abs=1e-6)
    bits = nats / math.log(2) / int(windows.num_bytes.sum())
    assert scores["val/bits_per_byte"] == pytest.approx(bits, rel=1e-5)


@pytest.mark.parametrize("stop", [5, 11], ids=["within an epoch", "in the second epoch"])
def test_a_resumed_fit_has_the_losses_of_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    def fit(steps: int, *callbacks: Callback, checkpoint: str | None = None) -> list[float]:
        seed_everything(3, verbose=False)
        losses = Losses()
        # 9 batches an epoch; the schedule's length must not depend on where the run was cut
        module = LanguageModel(config=CONFIG, warmup_steps=2, min_learning_rate_share=1.0)
        text = data(tmp_path)
        settings: dict[str, Any] = {"max_steps": steps, "max_epochs": -1, "limit_train_batches": 9}
        trainer = trainer_of(tmp_path, losses, *callbacks, limit_val_batches=0, **settings)
        trainer.fit(module, datamodule=text, ckpt_path=checkpoint)
        return losses.values

    whole = fit(16)
    saved = ModelCheckpoint(tmp_path / "kept", every_n_train_steps=stop, save_top_k=-1, filename="{step}")
    first = fit(stop, saved)
    rest = fit(16, checkpoint=str(tmp_path / "kept" / f"step={stop}.ckpt"))
    assert len(whole) == 16
    assert first + rest == whole


def test_a_resume_at_the_end_of_an_epoch_begins_the_next_one(tmp_path: Path) -> None:
    def fit(epochs: int, *callbacks: Callback, checkpoint: str | None = None) -> list[float]:
        seed_everything(3, verbose=False)
        losses = Losses()
        module = LanguageModel(config=CONFIG, warmup_steps=0, min_learning_rate_share=1.0)
        trainer = trainer_of(tmp_path, losses, *callbacks, max_epochs=epochs, limit_val_batches=0)
        trainer.fit(module, datamodule=data(tmp_path), ckpt_path=checkpoint)
        return losses.values

    whole = fit(2)
    first = fit(1, ModelCheckpoint(tmp_path / "kept", save_last=True))
    rest = fit(2, checkpoint=str(tmp_path / "kept" / "last.ckpt"))
    assert len(first) * 2 == len(whole)
    assert first + rest == whole


def test_an_export_is_what_transformers_loads(tmp_path: Path) -> None:
    target = tmp_path / "exported"
    module, text = LanguageModel(config=CONFIG, export_dir=str(target)), data(tmp_path)
    trainer_of(tmp_path, max_steps=2, limit_val_batches=0).fit(module, datamodule=text)
    module.export(target)  # a second time: the folder is replaced
    network, tokenizer = load_causal_lm(target), load_tokenizer(target)
    ids = torch.tensor([text.tokenizer("The cat sat")["input_ids"]])
    assert tokenizer("The cat sat")["input_ids"] == ids[0].tolist()
    with torch.inference_mode():
        torch.testing.assert_close(network(input_ids=ids).logits, module.eval()(ids))
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", "cache", "exported"}


def test_fine_tuning_starts_from_the_source_and_its_tokenizer(tmp_path: Path) -> None:
    first, text = LanguageModel(config=CONFIG), data(tmp_path)
    trainer_of(tmp_path, max_steps=1, limit_val_batches=0).fit(first, datamodule=text)
    first.export(tmp_path / "start")
    tuned = LanguageModel(source=str(tmp_path / "start"))
    other = data(tmp_path, train_tokenizer_vocab=None)  # no tokenizer of its own: the network's is used
    trainer_of(tmp_path).validate(tuned, datamodule=other, verbose=False)
    assert other.vocab_size == text.vocab_size
    assert tuned.network is not None
    assert first.network is not None
    for name, weight in tuned.network.state_dict().items():
        assert torch.equal(weight, first.network.state_dict()[name]), name


def test_a_checkpoint_is_read_without_a_data_module(tmp_path: Path) -> None:
    module, text = LanguageModel(config=CONFIG), data(tmp_path)
    trainer = trainer_of(tmp_path, max_steps=1, limit_val_batches=0)
    trainer.fit(module, datamodule=text)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    restored = LanguageModel.load_from_checkpoint(tmp_path / "a.ckpt")
    ids = torch.arange(12)[None]
    assert torch.equal(restored.eval()(ids), module.eval()(ids))


def test_predict_continues_the_text(tmp_path: Path) -> None:
    module = LanguageModel(config=CONFIG, predict_prompt_tokens=4, predict_new_tokens=3)
    text = data(tmp_path)
    batches = trainer_of(tmp_path).predict(module, datamodule=text)
    assert batches is not None
    first = text.evaluation_windows().input_ids[0]
    assert batches[0][0]["prompt"] == text.tokenizer.decode(first[:4])
    with torch.inference_mode():
        ids = first[None, :4]
        for _ in range(3):
            ids = torch.cat([ids, module.eval()(ids)[:, -1].argmax(-1)[:, None]], 1)
    assert batches[0][0]["continuation"] == text.tokenizer.decode(ids[0, 4:], skip_special_tokens=True)


def test_only_matrices_that_are_no_embedding_decay() -> None:
    network = nn.ModuleDict(
        {
            "embed": nn.Embedding(9, 4),
            "linear": nn.Linear(4, 3),
            "norm": nn.LayerNorm(4),
            "head": nn.Linear(4, 9),
        }
    )
    network["head"].weight = network["embed"].weight
    decayed, plain = decay_groups(network, 0.3)
    assert decayed["weight_decay"] == 0.3
    assert plain["weight_decay"] == 0
    assert [parameter.shape for parameter in decayed["params"]] == [(3, 4)]
    assert len(plain["params"]) == 5  # embedding (once), two biases, norm weight and bias


def test_the_learning_rate_rises_then_falls_to_its_share() -> None:
    rates = [warmup_cosine(step, 4, 20, 0.1) for step in range(25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[12] == pytest.approx(0.55)  # half-way down: the middle of 1 and 0.1
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[3:]))
    assert rates[20:] == [pytest.approx(0.1)] * 5
    assert warmup_cosine(0, 0, 0, 0.1) == pytest.approx(1.0)  # a run of no steps divides by nothing


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give source or config, not both or none"),
        ({"source": "a", "config": CONFIG}, "give source or config, not both or none"),
        ({"config": CONFIG, "learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"config": CONFIG, "warmup_share": 2.0}, r"warmup_share must be in \[0, 1\], got 2.0"),
        ({"config": CONFIG, "warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageModel(**settings)


def test_an_endless_run_is_refused(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_epochs=-1, max_steps=-1)
    with pytest.raises(ValueError, match=r"give trainer\.max_steps or trainer\.max_epochs"):
        trainer.fit(LanguageModel(config=CONFIG), datamodule=data(tmp_path))


def test_a_vocabulary_size_must_come_from_somewhere() -> None:
    with pytest.raises(ValueError, match="config needs vocab_size"):
        LanguageModel(config=CONFIG).configure_model()

"""Clip and Blip train, learn from a teacher, are exported, predict, and say what a cascade asks of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor
from torch.func import functional_call, hessian

from datamodules import ShapesDataModule
from fulgurite.calibration import gather_metrics
from fulgurite.evaluation.benchmarks import Drift, Retrieval, ZeroShot
from fulgurite.models import load_image_text
from lightning_modules import Blip, Clip
from lightning_modules.compressible import Compressible
from lightning_modules.optimisation import decay_groups

pytest.importorskip("open_clip")

OPEN_CLIP = {
    "library": "open_clip",
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
TRANSFORMERS = {
    "library": "transformers",
    "model_type": "clip",
    "projection_dim": 16,
    "vision_config": {**TOWER, "image_size": 32, "patch_size": 8},
    "text_config": {**TOWER, "max_position_embeddings": 16},
}
BLIP = {
    "library": "transformers",
    "model_type": "blip_caption",
    "vision_config": {**TOWER, "image_size": 32, "patch_size": 8},
    "text_config": {**TOWER, "max_position_embeddings": 24, "encoder_hidden_size": 32},
}

MATCHING = {**BLIP, "model_type": "blip_matching", "image_text_hidden_size": 16}


def data(**settings: Any) -> ShapesDataModule:
    return ShapesDataModule(
        **{"train": 96, "validation": 24, "test": 24, "side": 32, "batch_size": 24, **settings}
    )


def fit(module: LightningModule, shapes: ShapesDataModule, folder: Path, **settings: Any) -> Trainer:
    seed_everything(0, verbose=False)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        **{**quiet, "accelerator": "cpu", "max_epochs": 1, "enable_checkpointing": False, **settings},
        default_root_dir=folder,
    )
    trainer.fit(module, shapes)
    return trainer


def made(config: dict[str, Any], shapes: ShapesDataModule, **settings: Any) -> Any:
    """A module whose network is there, without a fit."""
    from fulgurite.models import build_image_text, train_caption_tokenizer

    torch.manual_seed(0)
    kind = Blip if str(config.get("model_type")).startswith("blip") else Clip
    module = kind(config=config, **settings)
    texts = [text for each in shapes.split("train").captions for text in each]
    module.network, module._adapter = build_image_text(
        config, train_caption_tokenizer(texts, 320, module.tokenizer_kind)
    )
    shapes.use_adapter(module.adapter)
    module.network.requires_grad_(False)
    module.network.eval()
    return module


@pytest.mark.parametrize("config", [OPEN_CLIP, TRANSFORMERS], ids=["open_clip", "transformers"])
def test_a_new_clip_learns_and_is_exported(config: dict[str, Any], tmp_path: Path) -> None:
    shapes = data()
    module = Clip(config=config, vocab_size=320, learning_rate=3e-3, export_dir=str(tmp_path / "network"))
    trainer = fit(module, shapes, tmp_path, max_epochs=70, check_val_every_n_epoch=70)
    # 24 pictures in a batch: knowing nothing costs log 24 = 3.2 nats
    assert float(trainer.callback_metrics["train/loss"]) < 2.8
    assert "val/top1" in trainer.callback_metrics
    network, adapter = load_image_text(str(tmp_path / "network"))
    pixels = shapes.evaluation().pixels([0, 1])
    module.eval()
    with torch.no_grad():
        torch.testing.assert_close(
            adapter.image_vectors(network, pixels), module.adapter.image_vectors(module.network, pixels)
        )
    assert torch.equal(adapter.tokenize(["a red circle"]), module.adapter.tokenize(["a red circle"]))


def test_a_student_comes_nearer_to_its_teachers_likenesses(tmp_path: Path) -> None:
    shapes = data()
    teacher = made(OPEN_CLIP, shapes)
    teacher.export(tmp_path / "teacher")
    settings = {
        "tokenizer": str(tmp_path / "teacher"),
        "teacher": str(tmp_path / "teacher"),
        "teacher_weight": 1.0,
    }
    small = {**OPEN_CLIP, "embed_dim": 8}  # likenesses compare whatever the width
    student = Clip(config=small, learning_rate=3e-3, **settings)
    trainer = fit(student, shapes, tmp_path, max_epochs=6)
    trained = float(trainer.callback_metrics["val/affinity_loss"])
    fresh = Clip(config=small, learning_rate=1e-9, **settings)
    untrained = float(fit(fresh, shapes, tmp_path).callback_metrics["val/affinity_loss"])
    assert trained < 0.8 * untrained
    assert not any("teacher" in name for name in student.state_dict())  # checkpoints hold the student alone


def test_a_teacher_with_other_tokens_or_pictures_is_refused(tmp_path: Path) -> None:
    shapes = data()
    made(OPEN_CLIP, shapes).export(tmp_path / "teacher")
    larger = {**OPEN_CLIP, "vision_cfg": {**OPEN_CLIP["vision_cfg"], "image_size": 64}}  # type: ignore[dict-item]
    tokenizer = str(tmp_path / "teacher")
    with pytest.raises(ValueError, match=r"the teacher must read pictures as .*64"):
        fit(Clip(config=larger, tokenizer=tokenizer, teacher=tokenizer), shapes, tmp_path)
    with pytest.raises(ValueError, match="the teacher must read texts in the student's tokens"):
        fit(Clip(config=OPEN_CLIP, vocab_size=400, teacher=tokenizer), data(), tmp_path)


def test_the_sigmoid_objective_trains_its_bias(tmp_path: Path) -> None:
    config = {**OPEN_CLIP, "init_logit_bias": -10.0}
    module = Clip(config=config, vocab_size=320, objective="sigmoid", learning_rate=1e-2)
    fit(module, data(), tmp_path)
    bias = module.adapter.scale_and_bias(module.network)[1]  # type: ignore[arg-type]
    assert bias is not None
    assert float(bias.detach()) != -10.0


def test_the_scale_stays_below_clips_limit(tmp_path: Path) -> None:
    shapes = data()
    module = made(OPEN_CLIP, shapes, learning_rate=1.0)
    module.network.requires_grad_(True)
    module.network.logit_scale.data.fill_(4.6)  # the limit is log 100 = 4.605
    fit(module, shapes, tmp_path)
    assert float(module.network.logit_scale.detach()) <= 4.6052


def test_predictions_name_a_class_for_each_picture(tmp_path: Path) -> None:
    shapes = data()
    module = made(OPEN_CLIP, shapes)
    trainer = Trainer(logger=False, enable_progress_bar=False, default_root_dir=tmp_path, accelerator="cpu")
    rows = [row for batch in trainer.predict(module, shapes) or [] for row in batch]
    split = shapes.split(shapes.predict_split)
    assert [row["picture"] for row in rows] == list(split.names)
    assert {row["class"] for row in rows} <= set(split.classes)


def test_a_new_blip_learns_captions_and_writes_them(tmp_path: Path) -> None:
    shapes = data()
    settings = {"label_smoothing": 0.0, "learning_rate": 3e-3}
    module = Blip(config=BLIP, vocab_size=200, export_dir=str(tmp_path / "network"), **settings)  # type: ignore[arg-type]
    trainer = fit(module, shapes, tmp_path, max_epochs=12, limit_val_batches=0)
    # nats a token; log of the vocabulary is 5.3, and these captions have few words
    assert float(trainer.callback_metrics["train/loss"]) < 2.5
    network, adapter = load_image_text(str(tmp_path / "network"))
    written = adapter.generate(network, shapes.evaluation().pixels([0, 1]), num_beams=2, max_new_tokens=12)
    assert len(written) == 2
    assert any(
        word in written[0] for word in ("small", "large", "red", "blue", "circle", "square", "the", "a ")
    )


def test_matching_learns_which_text_belongs(tmp_path: Path) -> None:
    module = Blip(config=MATCHING, vocab_size=200, learning_rate=3e-3)
    trainer = fit(module, data(), tmp_path, max_epochs=2)
    metrics = trainer.callback_metrics
    # three in two pairs do not belong: knowing only that costs 0.64 nats
    assert float(metrics["val/matching_loss"]) < 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give source or config, not both or none"),
        ({"source": "x", "config": {}}, "give source or config, not both or none"),
        ({"source": "x", "learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"source": "x", "teacher_weight": 1.5}, r"teacher_weight must be in \[0, 1\], got 1.5"),
        ({"source": "x", "benchmarks": []}, "benchmarks must name at least one"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Clip(**settings)


def test_a_captioner_is_no_clip_and_a_clip_no_captioner(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Clip needs a network with vectors"):
        fit(Clip(config=BLIP, vocab_size=300), data(), tmp_path)
    with pytest.raises(ValueError, match="Blip needs a network that writes captions or matches"):
        fit(Blip(config=TRANSFORMERS, vocab_size=300), data(), tmp_path)


# what a cascade asks


@pytest.mark.parametrize(
    "config",
    [OPEN_CLIP, TRANSFORMERS, BLIP, MATCHING],
    ids=["open_clip", "transformers", "captions", "matching"],
)
def test_a_network_is_as_far_from_itself_as_nothing_and_rows_become_batches(config: dict[str, Any]) -> None:
    shapes = data()
    module = made(config, shapes)
    assert isinstance(module, Compressible)
    rows = module.refinement_windows(shapes, 8)
    assert rows.shape[0] == 8
    batch = module.as_batch(rows)
    with torch.no_grad():
        outputs = module.network(**batch)
        assert abs(float(module.divergence(outputs, outputs, batch))) < 1e-5
        other = made(config, shapes, learning_rate=1.0)
        for weight in other.network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)))
        assert float(module.divergence(other.network(**batch), outputs, batch)) > 1e-3


@pytest.mark.parametrize("config", [OPEN_CLIP, BLIP, MATCHING], ids=["open_clip", "captions", "matching"])
def test_sampled_gradients_have_the_divergences_hessian_as_second_moment(config: dict[str, Any]) -> None:
    """Of the last bias of the text side, over 400 draws: the hessian per place, give or take their noise."""
    shapes = data()
    module = made(config, shapes)
    network, batch = module.network.double(), module.as_batch(module.refinement_windows(shapes, 4))
    batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    head = {
        id(BLIP): "text_decoder.cls.predictions.transform.LayerNorm.bias",
        id(MATCHING): "itm_head.bias",
    }
    name = head.get(id(config), "ln_final.bias")
    weight = network.get_parameter(name)
    reference = network(**batch)

    def divergence(moved: Tensor) -> Tensor:
        return module.divergence(
            functional_call(network, {name: moved}, args=(), kwargs=batch), reference, batch
        )

    expected = hessian(divergence)(weight.detach()).reshape(weight.numel(), weight.numel())
    generator = torch.Generator().manual_seed(0)
    weight.requires_grad_(True)
    moments = torch.zeros_like(expected)
    for _ in range(400):
        (gradient,) = torch.autograd.grad(module.sampled_loss(network, batch, generator), weight)
        moments += torch.outer(gradient.flatten(), gradient.flatten()) / 400
    found = moments / module.count_places(batch)
    distance = float((found - expected).norm() / expected.norm())
    assert distance < 0.35  # 32 x 32 numbers from 400 draws: about sqrt(32 / 400)
    assert abs(float(found.trace() / expected.trace()) - 1) < 0.1


def test_scores_depend_on_the_benchmarks_in_the_datas_digest() -> None:
    shapes = data()
    one = made(OPEN_CLIP, shapes, benchmarks=[ZeroShot(), Drift()]).data_facts(shapes)
    other = made(OPEN_CLIP, shapes, benchmarks=[ZeroShot(templates=["{}"]), Drift()]).data_facts(shapes)
    third = made(OPEN_CLIP, shapes, benchmarks=[Retrieval()]).data_facts(shapes)
    assert len({facts["sha256"] for facts in (one, other, third)}) == 3
    assert one["items"] == "pictures"
    assert one["windows"] == 24


def test_a_successor_drifts_from_the_network_that_came_first(tmp_path: Path) -> None:
    shapes = data()
    module = made(OPEN_CLIP, shapes, benchmarks=[Drift()])
    other = made(OPEN_CLIP, shapes)
    with torch.no_grad():
        other.network.visual.proj.mul_(-1)  # every picture's vector turned round
    module.save_as(tmp_path / "network", other.network)
    made_of = module.successor(tmp_path / "network", shapes)
    scores = {each.name: each.value for each in made_of.evaluate_network(made_of.network, shapes).measures}
    assert scores["image_fidelity"] == pytest.approx(-1, abs=1e-5)
    assert scores["text_fidelity"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("config", [OPEN_CLIP, TRANSFORMERS], ids=["open_clip", "transformers"])
def test_tokens_behind_the_mask_change_nothing_and_those_within_do(config: dict[str, Any]) -> None:
    module = made(config, data())
    tokens = module.adapter.tokenize(["a red circle", "a small red circle at the top left"])
    mask = module.text_mask(module.adapter.batch(torch.zeros(2, 3, 32, 32), tokens))
    assert mask.shape == tokens.shape
    assert not mask[0].all()  # the shorter one ends before
    plain = module.adapter.text_vectors(module.network, tokens)
    other = torch.where(mask, tokens, torch.tensor(7))  # 7: some token of a word
    torch.testing.assert_close(module.adapter.text_vectors(module.network, other), plain)
    within = torch.where(mask & (torch.arange(tokens.shape[1]) == 1), torch.tensor(7), tokens)
    assert (module.adapter.text_vectors(module.network, within) - plain).abs().max() > 1e-4


def test_a_metric_of_inputs_leaves_padding_out() -> None:
    shapes = data()
    module = made(TRANSFORMERS, shapes)
    name = "text_model.encoder.layers.0.self_attn.q_proj.weight"
    rows = module.refinement_windows(shapes, 8)
    found = []
    for extra in (0, 5):  # the same texts under more padding
        padded = torch.nn.functional.pad(rows, (0, extra), value=module.adapter.pad_token)
        batches = [module.as_batch(padded[:, : 1 + 16])]
        found.append(
            gather_metrics(module.network, batches, [name], "input", text_mask=module.text_mask)[name].hessian
        )
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


# what a fit with other data, other processes or other precision must not change


def test_a_checkpoint_brings_the_tokens_that_its_network_was_trained_with(tmp_path: Path) -> None:
    module = Clip(config=TRANSFORMERS, vocab_size=320)
    trainer = fit(module, data(), tmp_path, limit_val_batches=0)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    # fewer captions, of which another tokenizer would be made
    other, again = data(train=8, objects=2), Clip(config=TRANSFORMERS, vocab_size=320)
    settings = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "limit_val_batches": 1}
    Trainer(**settings, default_root_dir=tmp_path).validate(
        again, other, ckpt_path=str(tmp_path / "last.ckpt")
    )  # type: ignore[arg-type]
    sentence = ["a small red circle above a large blue square"]
    assert torch.equal(again.adapter.tokenize(sentence), module.adapter.tokenize(sentence))
    assert torch.equal(other.adapter.tokenize(sentence), module.adapter.tokenize(sentence))


def test_drift_is_told_against_an_original_or_not_at_all(tmp_path: Path) -> None:
    shapes = data()
    original = made(OPEN_CLIP, shapes)
    original.export(tmp_path / "original")
    with torch.no_grad():
        original.network.visual.proj.mul_(-1)
    original.export(tmp_path / "turned")
    settings = {
        "logger": False,
        "enable_progress_bar": False,
        "accelerator": "cpu",
        "default_root_dir": tmp_path,
    }
    (alone,) = Trainer(**settings).test(Clip(str(tmp_path / "turned")), data(), verbose=False)  # type: ignore[arg-type]
    assert "test/top1" in alone
    assert "test/image_fidelity" not in alone
    held = Clip(str(tmp_path / "turned"), reference=str(tmp_path / "original"))
    (against,) = Trainer(**settings).test(held, data(), verbose=False)  # type: ignore[arg-type]
    assert against["test/image_fidelity"] == pytest.approx(-1, abs=1e-5)
    assert against["test/text_fidelity"] == pytest.approx(1, abs=1e-5)


def test_a_benchmark_that_the_data_cannot_have_ends_a_fit_before_it_begins(tmp_path: Path) -> None:
    module = Clip(config=OPEN_CLIP, vocab_size=320, benchmarks=[ZeroShot(classes=("only one",))])
    steps: list[int] = []
    module.on_train_batch_start = lambda *_: steps.append(1)  # type: ignore[method-assign,assignment,func-returns-value]
    with pytest.raises(ValueError, match="class"):
        fit(module, data(), tmp_path)
    assert not steps


def test_rows_of_tokens_are_as_wide_on_every_process() -> None:
    """What is gathered must be of one shape, and each process pads to its own longest text."""
    module = made(TRANSFORMERS, data())
    short, long = (module.adapter.tokenize([text]) for text in ("red", "a small red circle at the top left"))
    assert short.shape != long.shape
    wide = [module._of_full_width(tokens) for tokens in (short, long)]
    assert {tuple(tokens.shape) for tokens in wide} == {(1, 16)}
    assert torch.equal(wide[0][:, : short.shape[1]], short)


@pytest.mark.slow
def test_two_processes_with_texts_of_other_lengths_end_their_fit(tmp_path: Path) -> None:
    recipe = tmp_path / "fit.yaml"
    arguments = {"train": 40, "validation": 8, "test": 8, "side": 32, "batch_size": 2}
    content = {
        "model": {
            "class_path": "lightning_modules.Clip",
            "init_args": {"config": TRANSFORMERS, "vocab_size": 320},
        },
        "data": {"class_path": "datamodules.ShapesDataModule", "init_args": arguments},
        "trainer": {"max_steps": 10, "accelerator": "cpu", "devices": 2, "strategy": "ddp"},
    }
    recipe.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "fulgurite.cli.main", "fit", "--config", str(recipe)]
    environment = {key: value for key, value in os.environ.items() if key != "FULGURITE_OUTPUT_DIR"}
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stage_that_trains_alone_sees_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = data()
    made(OPEN_CLIP, shapes)
    shapes.trainer = SimpleNamespace(global_rank=0, world_size=2)  # type: ignore[assignment]
    assert len(shapes.train_dataloader()) == 2  # half of 96 by 24
    with shapes.alone():
        assert len(shapes.train_dataloader()) == 4


def test_matching_is_validated_alike_each_time_and_trained_by_the_step() -> None:
    module = made(MATCHING, data())
    likeness = torch.randn(40, 40, generator=torch.Generator().manual_seed(0))
    module.eval()
    assert torch.equal(module._chosen(likeness, 0), likeness.argmax(1))
    module.train()
    torch.manual_seed(1)
    first = module._chosen(likeness, 0)
    torch.manual_seed(2)  # the global generator has no say
    assert torch.equal(module._chosen(likeness, 0), first)
    assert not torch.equal(module._chosen(likeness, 1), first)


def test_embeddings_of_places_do_not_decay() -> None:
    module = made(OPEN_CLIP, data())
    module.network.requires_grad_(True)
    decayed = {id(weight) for weight in decay_groups(module, 0.1)[0]["params"]}
    names = {name for name, weight in module.network.named_parameters() if id(weight) in decayed}
    assert not {name for name in names if name.endswith("embedding")}
    assert "visual.proj" in names

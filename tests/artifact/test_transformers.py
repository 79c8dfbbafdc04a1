"""An artefact is a transformers folder: any kind of network comes back as its decoded weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fulgurite
from fulgurite.artifact.errors import ArtifactError
from fulgurite.artifact.files import write_file
from fulgurite.artifact.manifest import read_manifest
from fulgurite.artifact.network_files import network_files
from fulgurite.artifact.packed import is_packed
from fulgurite.artifact.reader import RAW
from fulgurite.artifact.writer import write_artifact
from fulgurite.codecs import (
    Codec,
    Encoded,
    Float16Codec,
    HyperCodec,
    SeedLMCodec,
    UniformCodec,
    VptqCodec,
    decode,
)
from fulgurite.models import build_causal_lm, tied_names, unique_parameters

LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,  # a prime: no group size divides it
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
KINDS: dict[str, dict[str, Any]] = {
    "tied llama": {**LLAMA, "tie_word_embeddings": True},
    "untied llama": {**LLAMA, "tie_word_embeddings": False},
    "gpt2": {  # weights are [in, out], and there are biases
        "model_type": "gpt2",
        "vocab_size": 61,
        "n_embd": 24,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
    "qwen2": {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True},  # biases on q, k and v
    "bfloat16 llama": {**LLAMA, "tie_word_embeddings": True, "dtype": "bfloat16"},
}
MIXED: tuple[Codec, ...] = (
    UniformCodec(bits=4, group_size=16, entropy=True),
    SeedLMCodec(),
    HyperCodec(num_points=400, num_classes=1),
    VptqCodec(
        codebook_size=16, vector_length=2, share_above=0.0
    ),  # dear codebooks are shared: here all of them
)
TOKENS = torch.tensor([[0, 5, 17, 60, 2, 33, 8, 41]])


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network_of(kind: str) -> Any:
    """A random network; its biases too, which start as zeros."""
    settings = dict(KINDS[kind])
    dtype = getattr(torch, settings.pop("dtype", "float32"))
    network: Any = build_causal_lm(settings).eval()
    for parameter in network.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
        parameter.data = parameter.data.to(dtype)  # not the network: rotary frequencies stay in float32
    network.config.dtype = dtype
    return network


def encode(network: Any) -> dict[str, Encoded]:
    """The four codecs in turn over the matrices, a codebook shared by those of one of them; the rest in 16 bits."""
    parameters = unique_parameters(network)
    matrices = [name for name, weight in parameters.items() if weight.dim() >= 2]
    encoded: dict[str, Encoded] = {}
    for index, codec in enumerate(MIXED):
        mine = {name: parameters[name].detach() for name in matrices[index :: len(MIXED)]}
        encoded |= {name: bound.encode(mine[name]) for name, bound in codec.bind(mine).items()}
    for name, weight in parameters.items():
        encoded.setdefault(name, Float16Codec().encode(weight.detach()))
    for name, value in network.state_dict().items():
        if name not in parameters and name not in tied_names(network):
            dtype = str(value.dtype).removeprefix("torch.")
            encoded[name] = Encoded(RAW, tuple(value.shape), dtype, {"values": value})
    return encoded


def write(network: Any, folder: Path, encoded: dict[str, Encoded] | None = None) -> dict[str, Encoded]:
    encoded = encode(network) if encoded is None else encoded
    write_artifact(
        folder,
        encoded,
        model_class=type(network).__name__,
        aliases=tied_names(network),
        files=network_files(network),
    )
    return encoded


def decoded_network(network: Any, encoded: dict[str, Encoded]) -> Any:
    """The reference: the network that was encoded, its parameters overwritten one by one."""
    with torch.no_grad():
        for name, parameter in unique_parameters(network).items():
            parameter.copy_(decode(encoded[name]))
    return network.eval()


@torch.no_grad()
def logits(network: Any) -> torch.Tensor:
    found: torch.Tensor = network(input_ids=TOKENS).logits
    return found


@pytest.fixture
def tied(tmp_path: Path) -> tuple[Path, Any]:
    """An artefact of a tied Llama, and its logits."""
    network = network_of("tied llama")
    encoded = write(network, tmp_path / "artifact")
    return tmp_path / "artifact", logits(decoded_network(network, encoded))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_comes_back_as_its_decoded_weights(kind: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = network_of(kind)
    folder = tmp_path / "artifact"
    encoded = write(network, folder)
    assert {entry.codec for entry in encoded.values()} >= {"uniform", "seedlm", "hyper", "vptq", "fp16"}
    expected = logits(decoded_network(network, encoded))
    for packed in (False, True):
        for loaded in (
            fulgurite.load(folder, packed=packed),
            AutoModelForCausalLM.from_pretrained(folder, packed=packed, dtype="auto"),
        ):
            assert is_packed(loaded) == packed
            assert not loaded.training
            assert torch.equal(logits(loaded), expected)  # the same numbers in the same order: no tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_network_has_the_kept_dtype_and_ties(kind: str, tmp_path: Path) -> None:
    network = network_of(kind)
    write(network, tmp_path / "artifact")
    loaded = fulgurite.load(tmp_path / "artifact")
    assert tied_names(loaded) == tied_names(network)
    wanted = {name: weight.dtype for name, weight in unique_parameters(network).items()}
    assert {name: weight.dtype for name, weight in unique_parameters(loaded).items()} == wanted


def test_weights_of_one_codec_share_the_stored_codebook(tied: tuple[Path, Any]) -> None:
    manifest = read_manifest(tied[0])
    vectors = [manifest.layout(name) for name in manifest.weights if manifest.layout(name).codec == "vptq"]
    homes = {part.shared for layout in vectors for part in layout.parts if part.name == "codebook"}
    assert len(vectors) >= 3
    assert len(homes) == 1
    assert homes <= set(manifest.shared)


def test_without_our_import_transformers_refuses_the_folder(tied: tuple[Path, Any]) -> None:
    code = (
        "import sys; from transformers import AutoModelForCausalLM\n"
        "assert 'fulgurite' not in sys.modules\n"
        "AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "print('a network of random weights')"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tied[0])],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode != 0
    assert "random weights" not in done.stdout
    assert (
        "fulgurite" in done.stderr or "size" in done.stderr
    )  # names the format, or the shapes that do not fit


def test_a_config_without_its_quantization_config_is_refused(tied: tuple[Path, Any]) -> None:
    from transformers import AutoModelForCausalLM

    path = tied[0] / "config.json"
    config = json.loads(path.read_text())
    del config["quantization_config"]
    write_file(path, json.dumps(config).encode())
    with pytest.raises(ArtifactError, match=r"config\.json: expected a quantization_config"):
        fulgurite.load(tied[0])
    with pytest.raises((RuntimeError, ValueError), match=r"size|shape|mismatch"):  # transformers' own words
        AutoModelForCausalLM.from_pretrained(tied[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [("missing", r"the network has 'model\.norm\.weight'"), ("extra", r"lists 'model\.surplus\.weight'")],
)
def test_a_missing_or_extra_weight_is_refused(change: str, message: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = network_of("tied llama")
    encoded = encode(network)
    if change == "missing":
        del encoded["model.norm.weight"]
    else:
        encoded["model.surplus.weight"] = UniformCodec().encode(torch.ones(4, 8))
    write(network, tmp_path / "artifact", encoded)
    for load in (fulgurite.load, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ArtifactError, match=message):
            load(tmp_path / "artifact")


def test_a_config_of_another_size_is_refused(tied: tuple[Path, Any]) -> None:
    path = tied[0] / "config.json"
    config = json.loads(path.read_text()) | {"intermediate_size": 48}
    write_file(path, json.dumps(config).encode())
    with pytest.raises(ArtifactError, match=r"config\.json: the file has checksum|has shape \[40, 24\]"):
        fulgurite.load(tied[0])


def test_a_class_that_transformers_lacks_is_named(tied: tuple[Path, Any]) -> None:
    path = tied[0] / "fulgurite.json"
    manifest = json.loads(path.read_text()) | {"model_class": "NoSuchForCausalLM"}
    write_file(path, json.dumps(manifest).encode())
    with pytest.raises(ArtifactError, match="has no NoSuchForCausalLM"):
        fulgurite.load(tied[0])


def test_a_decoded_network_trains_and_saves_as_any_other(tied: tuple[Path, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(tied[0])
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert all(weight.grad is not None for weight in network.parameters())
    optimizer.step()
    network.eval()
    assert not torch.equal(logits(network), tied[1])
    network.save_pretrained(tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(again), logits(network))


def test_a_packed_network_is_not_saved_half(tied: tuple[Path, Any], tmp_path: Path) -> None:
    packed = fulgurite.load(tied[0], packed=True)
    with pytest.raises((ValueError, NotImplementedError), match=r"fulgurite|serializ|packed"):
        packed.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "model.safetensors").exists()


def test_a_packed_network_keeps_its_bytes_packed(tied: tuple[Path, Any]) -> None:
    packed, decoded = fulgurite.load(tied[0], packed=True), fulgurite.load(tied[0])
    manifest = read_manifest(tied[0])
    coded = {name for name in manifest.weights if not manifest.layout(name).native}
    assert not coded & {name for name, _ in packed.named_parameters()}
    held = {tensor.data_ptr(): tensor.nbytes for tensor in [*packed.parameters(), *packed.buffers()]}
    whole = sum(weight.nbytes for weight in decoded.parameters())
    assert sum(held.values()) < whole / 2  # about 4 to 8 bits of 32, and 16-bit norms as fp32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_packed_network_is_cast_as_any_other(dtype: torch.dtype, tied: tuple[Path, Any]) -> None:
    packed = fulgurite.load(tied[0], packed=True).to(dtype)
    decoded = fulgurite.load(tied[0]).to(dtype)
    assert logits(packed).dtype == dtype
    assert torch.equal(logits(packed), logits(decoded))


@pytest.mark.parametrize("packed", [False, True], ids=["decoded", "packed"])
def test_a_network_is_loaded_in_the_dtype_asked_for(packed: bool, tied: tuple[Path, Any]) -> None:
    loaded = fulgurite.load(tied[0], packed=packed, dtype=torch.bfloat16)
    assert logits(loaded).dtype == torch.bfloat16
    # bfloat16 keeps 8 bits of each weight and sum: the logits are of the order of 1
    assert torch.allclose(logits(loaded).float(), tied[1], atol=0.1)


def test_packed_and_decoded_write_the_same_text(tied: tuple[Path, Any]) -> None:
    written = [
        fulgurite.load(tied[0], packed=packed).generate(
            TOKENS, attention_mask=torch.ones_like(TOKENS), max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        for packed in (False, True)
    ]
    assert written[0].shape[1] > TOKENS.shape[1]
    assert torch.equal(written[0], written[1])


def test_the_folder_may_be_moved(tied: tuple[Path, Any], tmp_path: Path) -> None:
    shutil.move(tied[0], tmp_path / "elsewhere")
    assert torch.equal(logits(fulgurite.load(tmp_path / "elsewhere")), tied[1])

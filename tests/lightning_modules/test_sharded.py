"""Two real processes share out a network over gloo: it trains as one that is whole, and comes out whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import run_script

from fulgurite.models import load_causal_lm
from lightning_modules import LanguageModel, Sharded
from lightning_modules.sharded import blocks_of
from lightning_modules.trainer import Trainer

SCRIPT = """
import json, os, sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.strategies import DDPStrategy

from fulgurite.models import load_causal_lm
from lightning_modules import LanguageModel, Sharded
from lightning_modules.sharded import spread, write_parameter
from lightning_modules.trainer import Trainer

folder = Path(sys.argv[1])
CONFIG = json.loads(sys.argv[2])
RANK = int(os.environ.get("LOCAL_RANK", 0))


class Whole(LightningModule):
    def configure_model(self):
        self.layer = torch.nn.Linear(2, 2)

    def training_step(self, batch, batch_idx):
        return None

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Tokens(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(RANK)  # each process has its own, at each step the same
        return {"input_ids": torch.randint(0, 96, (17,), generator=generator)}


def fit(name, strategy, steps, ckpt=None):
    seed_everything(0, verbose=False)
    if name != "ddp" and RANK:
        torch.manual_seed(1)  # random weights are another process's: rank 0 has the last word
    module = LanguageModel(config=CONFIG, learning_rate=1e-2, warmup_share=0.0, export_dir=str(folder / name))
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_steps=steps, logger=False, gradient_clip_val=0.5,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        use_distributed_sampler=False,
    )
    # steps of the schedule: the same, wherever it stops
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters(), lr=1e-2)
    trainer.fit(module, torch.utils.data.DataLoader(Tokens(), batch_size=2), ckpt_path=ckpt, weights_only=False)
    held = sum(getattr(p, "_local_tensor", p).numel() for p in module.parameters())
    (folder / f"{name}-{trainer.global_rank}.json").write_text(json.dumps({"held": held, "steps": trainer.global_step}))
    return trainer


if __name__ == "__main__":
    fit("ddp", DDPStrategy(process_group_backend="gloo"), 6)
    fit("sharded", Sharded(process_group_backend="gloo"), 6)
    trainer = fit("begun", Sharded(process_group_backend="gloo"), 3)
    trainer.save_checkpoint(folder / "begun.ckpt")
    network = load_causal_lm(folder / "sharded").requires_grad_(False)
    parts = spread(network, trainer.strategy)
    tokens = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(RANK))  # each its own
    told = {"held": sum(p.to_local().numel() for p in parts.parameters())}
    with torch.no_grad():
        told["same"] = torch.equal(parts(input_ids=tokens).logits, network(input_ids=tokens).logits)
        write_parameter(parts.model.norm.weight, torch.zeros(32))
        told["written"] = bool((parts(input_ids=tokens).logits == 0).all())
    (folder / f"spread-{RANK}.json").write_text(json.dumps(told))
    fit("resumed", Sharded(process_group_backend="gloo"), 6, ckpt=folder / "begun.ckpt")
    try:
        Trainer(
            accelerator="cpu", devices=2, strategy=Sharded(process_group_backend="gloo"), logger=False,
            enable_checkpointing=False, default_root_dir=folder, max_steps=1,
        ).fit(Whole(), torch.utils.data.DataLoader([1, 2]))
    except ValueError as error:
        (folder / "refused.txt").write_text(str(error))
"""
CONFIG = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the fits have left."""
    root = tmp_path_factory.mktemp("sharded")
    run_script(2, SCRIPT, root, str(root), json.dumps(CONFIG))
    return root


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_causal_lm(folder).named_parameters())


def test_a_shared_out_network_trains_as_whole_ones_do(folder: Path) -> None:
    whole, shared = weights(folder / "ddp"), weights(folder / "sharded")
    assert whole.keys() == shared.keys()
    for name, weight in whole.items():
        # sums of two gradients in another order, six steps of AdamW long
        torch.testing.assert_close(shared[name], weight, rtol=0, atol=2e-4)


def test_each_process_holds_its_part(folder: Path) -> None:
    told = {
        name: [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
        for name in ("ddp", "sharded")
    }
    (first, second), (other, _) = [[each["held"] for each in told[name]] for name in ("sharded", "ddp")]
    assert first + second == other
    assert max(first, second) < 0.52 * other


def test_a_copy_in_parts_answers_as_the_whole_network(folder: Path) -> None:
    told = [json.loads((folder / f"spread-{rank}.json").read_text()) for rank in (0, 1)]
    assert all(each["same"] and each["written"] for each in told), told
    assert sum(each["held"] for each in told) == json.loads((folder / "ddp-0.json").read_text())["held"]
    assert abs(told[0]["held"] - told[1]["held"]) < 0.04 * told[0]["held"]


def test_a_resumed_training_is_an_uninterrupted_one(folder: Path) -> None:
    assert json.loads((folder / "resumed-0.json").read_text())["steps"] == 6
    uninterrupted = weights(folder / "sharded")
    for name, weight in weights(folder / "resumed").items():
        torch.testing.assert_close(weight, uninterrupted[name], rtol=0, atol=1e-6)


def test_its_checkpoint_is_one_file_that_needs_no_processes(folder: Path) -> None:
    module: Any = LanguageModel.load_from_checkpoint(folder / "begun.ckpt", weights_only=False)
    begun = weights(folder / "begun")
    for name, weight in module.network.named_parameters():
        assert torch.equal(weight.cpu(), begun[name])


def test_a_module_that_does_not_share_out_its_network_is_refused(folder: Path) -> None:
    assert "Whole does not share out its network (FSDP2)" in (folder / "refused.txt").read_text()


def test_it_is_known_by_name() -> None:
    trainer = Trainer(
        strategy="sharded", accelerator="cpu", devices=2, logger=False, enable_checkpointing=False
    )
    assert type(trainer.strategy) is Sharded


def test_blocks_are_the_elements_of_outermost_lists() -> None:
    module = LanguageModel(config=CONFIG)
    module.configure_model()
    assert module.network is not None
    assert [type(block).__name__ for block in blocks_of(module.network)] == ["LlamaDecoderLayer"] * 3
    nested = torch.nn.Sequential(
        torch.nn.ModuleList([torch.nn.ModuleList([torch.nn.Linear(1, 1)]), torch.nn.ReLU()])
    )
    assert [type(block).__name__ for block in blocks_of(nested)] == ["ModuleList"]

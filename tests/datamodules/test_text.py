"""TextDataModule: tokenised once, the same windows for all who ask."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import datamodules.text as text_module
from datamodules import TextDataModule
from datamodules.loader import EpochSampler, ResumableDataLoader
from datamodules.token_cache import cached_stream, tokenise
from datamodules.tokenizer_training import train_tokenizer

SENTENCES = [
    f"The {animal} — naïve as ever — saw {number} ducks near the café.\n\n  Then it slept; 日本 was far.\n"
    for number, animal in enumerate(["fox", "old bear", "crow", "hare", "wolf"] * 40)
]
TEXT = "".join(SENTENCES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_bytes(TEXT.encode())
    return tmp_path


def module(folder: Path, **settings: Any) -> TextDataModule:
    defaults = {"train": "a.txt", "train_tokenizer_vocab": 300, "window": 32, "batch_size": 4}
    return TextDataModule(
        **{**defaults, "data_dir": str(folder), "cache_dir": str(folder / "cache"), **settings}
    )


def test_windows_count_every_byte_of_the_text_once(folder: Path) -> None:
    data = module(folder, validation="a.txt")
    windows = data.evaluation_windows()
    tokenizer = data.tokenizer
    tokens = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    # the text as the windows cover it: byte-level pieces decode to exactly their bytes
    last = windows.num_tokens + 1
    covered = len(TEXT.encode()) - len(tokenizer.decode(tokens[:1]).encode())
    tail = tokenizer.decode(tokens[last:])
    assert "\ufffd" not in tail, "the tail must not begin within a character, or this count is off"
    assert int(windows.num_bytes.sum()) == covered - len(tail.encode())
    assert windows.input_ids[:, 1:].flatten().tolist() == tokens[1:last]


def test_token_bytes_sum_to_the_text_also_where_it_is_cut_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = train_tokenizer(TEXT, 300)
    whole = tokenise(TEXT, tokenizer)
    monkeypatch.setattr("datamodules.token_cache._PIECE", 100)  # some 150 pieces
    pieces = tokenise(TEXT, tokenizer)
    assert pieces.tokens.tolist() == whole.tokens.tolist()
    assert pieces.token_bytes.tolist() == whole.token_bytes.tolist()
    assert whole.token_bytes.sum() == len(TEXT.encode())


def test_token_bytes_are_those_of_each_byte_level_piece() -> None:
    ascii_text = TEXT.encode("ascii", "ignore").decode()  # a character is a byte: no piece within one
    tokenizer = train_tokenizer(ascii_text, 300)
    stream = tokenise(ascii_text, tokenizer)
    sizes = [len(tokenizer.decode([token])) for token in stream.tokens.tolist()]
    assert stream.token_bytes.tolist() == sizes


def test_a_second_construction_reads_the_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = module(folder).evaluation_windows()

    def unexpected(*_: Any) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(text_module, "tokenise", unexpected)
    monkeypatch.setattr("datamodules.tokenizer_training.train_tokenizer", unexpected)
    data = module(folder)
    assert torch.equal(data.evaluation_windows().input_ids, first.input_ids)
    assert isinstance(data._tokens("train").tokens, np.memmap)
    (folder / "a.txt").write_bytes((TEXT + "More.").encode())
    with pytest.raises(AssertionError, match="tokenised again"):
        module(folder).evaluation_windows()


def test_a_failed_tokenisation_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> Any:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        cached_stream(tmp_path, "key", fail)
    assert os.listdir(tmp_path) == []


def test_a_tail_of_the_train_text_is_held_out_where_there_is_no_other(folder: Path) -> None:
    data = module(folder, validation_share=0.25)
    tokens = data._tokens("train").tokens.tolist()
    total = (len(tokens) - 1) // 32
    held = data.evaluation_windows()
    assert len(held) == round(0.25 * total)
    assert held.input_ids[0, 0] == tokens[(total - len(held)) * 32]
    trained = torch.cat([batch["input_ids"] for batch in data.train_dataloader()])
    assert len(trained) == total - len(held)


def test_the_train_order_is_a_function_of_seed_and_epoch(folder: Path) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(range(50), seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert sorted(order(0, 0)) == list(range(50))
    orders = [tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9  # also (0, 1) and (1, 0) differ
    batches = [batch["input_ids"] for batch in module(folder).train_dataloader()]
    again = [batch["input_ids"] for batch in module(folder).train_dataloader()]
    assert all(torch.equal(one, other) for one, other in zip(batches, again, strict=True))


def test_a_loader_goes_on_where_its_state_was_taken(folder: Path) -> None:
    loader = module(folder).train_dataloader()
    assert isinstance(loader, ResumableDataLoader)
    batches = [batch["input_ids"] for batch in loader]
    running = iter(loader)
    next(running), next(running)
    state = loader.state_dict()
    resumed = module(folder).train_dataloader()
    resumed.load_state_dict(state)
    rest = [batch["input_ids"] for batch in resumed]
    assert len(rest) == len(batches) - 2
    assert all(torch.equal(one, other) for one, other in zip(rest, batches[2:], strict=True))
    assert len(list(resumed)) == len(batches)  # the next epoch is whole again


def test_calibration_is_the_same_view_of_the_train_text_each_time(folder: Path) -> None:
    data = module(folder, calibration_windows=6)
    batches = list(data.calibration_batches())
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(4, 32), (2, 32)]
    again = list(module(folder, calibration_windows=6, seed=9).calibration_batches())
    for one, other in zip(batches, again, strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])


def test_the_unigram_counts_each_piece_once_more_than_it_occurs(folder: Path) -> None:
    data = module(folder, validation="a.txt")
    tokens = data._tokens("train").tokens.tolist()
    unigram = data.unigram()
    assert unigram.shape == (data.vocab_size,)
    assert math.isclose(float(unigram.sum()), 1, rel_tol=1e-12)
    token = tokens[5]
    expected = (tokens.count(token) + 1) / (len(tokens) + data.vocab_size)
    assert math.isclose(float(unigram[token]), expected, rel_tol=1e-12)


def test_validation_batches_are_the_evaluation_windows_in_order(folder: Path) -> None:
    data = module(folder, validation="a.txt", max_windows_validation=10)
    windows = data.evaluation_windows()
    batches = list(data.val_dataloader())
    assert [len(batch["input_ids"]) for batch in batches] == [4, 4, 2]
    assert torch.equal(torch.cat([batch["input_ids"] for batch in batches]), windows.input_ids)
    assert torch.equal(torch.cat([batch["num_bytes"] for batch in batches]), windows.num_bytes)


def test_the_fingerprint_of_the_data_follows_windows_and_text(folder: Path) -> None:
    first = module(folder).data_fingerprint()
    assert module(folder).data_fingerprint() == first
    assert module(folder, window=16).data_fingerprint() != first


def test_a_networks_tokenizer_is_used_only_where_none_was_given(folder: Path) -> None:
    own = train_tokenizer(TEXT, 280)
    data = module(folder, train_tokenizer_vocab=None)
    with pytest.raises(ValueError, match=r"there is no tokenizer: give data\.tokenizer"):
        data.prepare_data()
    data.use_tokenizer(own)
    assert data.tokenizer is own
    given = module(folder)
    given.use_tokenizer(own)
    assert given.vocab_size == 300


def test_a_tokenizer_folder_is_read(folder: Path) -> None:
    own = train_tokenizer(TEXT, 280)
    own.save_pretrained(str(folder / "tokenizer"))
    data = module(folder, train_tokenizer_vocab=None, tokenizer=str(folder / "tokenizer"))
    ids = data.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert ids == own(TEXT, add_special_tokens=False)["input_ids"]


def test_the_same_text_gives_the_same_tokenizer() -> None:
    one, other = (train_tokenizer(TEXT, 300) for _ in range(2))
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()
    assert one.decode(one(TEXT)["input_ids"]) == TEXT  # byte-level: nothing is unknown, nothing lost


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"validation_share": 1.0}, r"validation_share must be in \(0, 1\), got 1.0"),
        ({"train_tokenizer_vocab": 256}, "train_tokenizer_vocab must be at least 257, got 256"),
        ({"tokenizer": "gpt2"}, "give tokenizer .* or train_tokenizer_vocab, not both"),
    ],
)
def test_bad_settings_are_refused(folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        module(folder, **settings)


def test_a_short_text_is_found_at_setup(folder: Path) -> None:
    (folder / "b.txt").write_text("Too short.")
    data = module(folder, validation="b.txt")
    with pytest.raises(ValueError, match=r"validation text has \d+ tokens, one window needs 33"):
        data.setup("fit")


def data_root() -> Path:
    root = Path(os.environ.get("FULGURITE_DATA", Path(__file__).parents[3] / "shared" / "data"))
    if not (root / "models" / "books6m").is_dir():
        pytest.skip("needs the shared data (FULGURITE_DATA)")
    return root


@pytest.mark.parametrize(
    ("network", "text"),
    [("books6m", "text/gutenberg/valid.txt.xz"), ("stories260K", "text/tinystories/valid_sample.txt")],
)
def test_real_tokenizers_lose_no_byte(tmp_path: Path, network: str, text: str) -> None:
    root = data_root()
    data = TextDataModule(
        validation=text,
        data_dir=str(root),
        tokenizer=str(root / "models" / network),
        cache_dir=str(tmp_path),
    )
    stream = data._stream("validation")
    raw = data._texts.read("validation")
    assert int(stream.token_bytes.sum()) == len(raw.encode())
    head = raw[:20_000]
    ids = data.tokenizer(head, add_special_tokens=False)["input_ids"]
    assert stream.tokens[: len(ids) - 5].tolist() == ids[:-5]  # the cut may change the last pieces
    windows = data.evaluation_windows()
    assert len(windows) == (len(stream) - 1) // 256

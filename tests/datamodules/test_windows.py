"""Every token is predicted once, every byte counted once."""

import numpy as np
import pytest
import torch

from datamodules.token_cache import TokenStream
from datamodules.windows import WindowDataset, hold_out


def stream_of(count: int) -> TokenStream:
    return TokenStream(np.arange(count, dtype=np.uint16), np.full(count, 3, np.uint16))


@pytest.mark.parametrize("count", [9, 10, 11, 12])  # 12 tokens: 2 windows of 4 and a tail of 3
def test_windows_predict_each_token_once(count: int) -> None:
    windows = WindowDataset(stream_of(count), window=4).windows()
    assert windows.input_ids.dtype == torch.int64
    predicted = windows.input_ids[:, 1:].flatten().tolist()
    assert predicted == list(range(1, 9))  # token 0 is only read, the tail is left out
    assert windows.input_ids[:, 0].tolist() == [0, 4]  # what one window predicts last the next reads first
    assert windows.num_bytes.tolist() == [12, 12]
    assert windows.num_tokens == 8


def test_items_are_the_rows_of_windows() -> None:
    dataset = WindowDataset(stream_of(30), window=4, limit=3, with_bytes=True)
    windows = dataset.windows()
    assert len(dataset) == len(windows) == 3
    for row in range(3):
        assert torch.equal(dataset[row]["input_ids"], windows.input_ids[row])
        assert dataset[row]["num_bytes"] == windows.num_bytes[row]


def test_a_limit_spreads_over_the_text() -> None:
    starts = WindowDataset(stream_of(41), window=4, limit=5).windows().input_ids[:, 0]
    assert starts.tolist() == [0, 8, 16, 24, 32]  # 10 windows: every second one


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="train text has 12 tokens, one window needs 257"):
        WindowDataset(stream_of(12), window=256, name="train text")


def test_hold_out_takes_whole_windows_from_the_end() -> None:
    train, held = hold_out(stream_of(42), window=4, share=0.25)  # 10 windows and a tail: 2.5 rounds to 2
    assert len(WindowDataset(train, 4)) == 8
    assert len(WindowDataset(held, 4)) == 2
    assert train.tokens[-1] == held.tokens[0] == 32  # read by one side, predicted by the other
    assert len(train) + len(held) == 43


def test_hold_out_leaves_a_window_on_each_side() -> None:
    for share in (0.001, 0.999):
        train, held = hold_out(stream_of(9), window=4, share=share)
        assert len(WindowDataset(train, 4)) == len(WindowDataset(held, 4)) == 1
    with pytest.raises(ValueError, match=r"train text has 8 tokens.* need 9"):
        hold_out(stream_of(8), window=4, share=0.5)


def test_counts_of_a_stream_are_those_of_its_tokens() -> None:
    stream = TokenStream(np.array([0, 2, 2, 5], np.uint16), np.ones(4, np.uint16))
    assert stream.counts(7).tolist() == [1, 0, 2, 0, 0, 1, 0]

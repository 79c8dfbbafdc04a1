"""One vector a text, whatever it is padded with and whichever batch it is in."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fulgurite.models import Pooling, embed_rows, token_batch


class Lookup(nn.Module):
    """A network whose token vectors depend on the token alone; padding has large ones."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.dropout = nn.Dropout(0.5)
        with torch.no_grad():
            self.table.weight[0] = 1000.0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        assert input_ids.shape == attention_mask.shape
        return SimpleNamespace(last_hidden_state=self.dropout(self.table(input_ids)))


ROWS = torch.tensor([[3, 4, 5, 0, 0], [6, 0, 0, 0, 0], [7, 8, 9, 10, 11]])
TEXTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11]]


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
def test_padding_does_not_count(mode: Any) -> None:
    network = Lookup()
    found = embed_rows(network, ROWS, Pooling(mode, normalize=False), pad_token=0)
    for row, text in zip(found, TEXTS, strict=True):
        vectors = network.table.weight[text]
        expected = {"mean": vectors.mean(0), "cls": vectors[0], "max": vectors.max(0).values}[mode]
        torch.testing.assert_close(row, expected.detach())


def test_the_first_token_is_found_behind_padding() -> None:
    vectors = torch.arange(8.0).reshape(1, 4, 2)
    mask = torch.tensor([[0, 0, 1, 1]])
    assert Pooling("cls", normalize=False).pool(vectors, mask).tolist() == [[4, 5]]


def test_normalised_vectors_have_length_one() -> None:
    vectors = embed_rows(Lookup(), ROWS, Pooling(), pad_token=0)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


def test_neither_batch_nor_order_changes_a_vector() -> None:
    network = Lookup().train()
    whole = embed_rows(network, ROWS, Pooling(), pad_token=0)
    assert network.dropout.training, "the mode comes back"
    done: list[int] = []
    singly = embed_rows(network, ROWS.flip(0), Pooling(), 0, batch_size=1, progress=done.append).flip(0)
    torch.testing.assert_close(singly, whole)
    assert done == [1, 2, 3]


def test_rows_are_cut_to_the_longest_text() -> None:
    batch = token_batch(ROWS[:2], pad_token=0)
    assert batch["input_ids"].tolist() == [[3, 4, 5], [6, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "median"}, "pooling must be one of cls, max, mean"),
        ({"max_length": 0}, "max_length must be"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pooling(**settings)

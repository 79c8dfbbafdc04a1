"""Work side by side comes back in order, and stops where something fails."""

import threading
from collections.abc import Iterator

import pytest
import torch

from fulgurite.threads import side_by_side


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_results_are_in_the_order_of_the_items(threads: int | None) -> None:
    assert list(side_by_side(lambda item: item * item, range(20), threads)) == [n * n for n in range(20)]


def test_two_items_run_at_a_time_each_on_one_thread() -> None:
    meeting = threading.Barrier(2, timeout=30)

    def work(_: int) -> tuple[int, bool]:
        meeting.wait()  # breaks if there is nobody to meet
        return torch.get_num_threads(), torch.is_grad_enabled()

    assert list(side_by_side(work, range(4))) == [(1, False)] * 4
    assert torch.get_num_threads() == 2


def test_no_more_is_begun_than_there_are_threads_for() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = side_by_side(lambda item: item, items())
    assert next(results) == 0
    assert len(taken) <= 3
    results.close()
    assert torch.get_num_threads() == 2


def test_a_failure_comes_through_and_the_rest_is_left() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 3:
            raise ValueError("the third")
        return item

    with pytest.raises(ValueError, match="the third"):
        list(side_by_side(work, range(100)))
    assert len(begun) < 10
    assert torch.get_num_threads() == 2

"""What a user reads of a run before its first stage: scores, and what can be told by them."""

import io

import numpy as np
from rich.console import Console as RichConsole

from callbacks.console import Console
from fulgurite.evaluation.evaluation import Evaluation
from fulgurite.evaluation.gate import Gate
from fulgurite.evaluation.measure import Measure

ITEMS = 400


def quiz(name: str, share: float) -> Measure:
    """Questions with four answers, a share of them answered right."""
    right = (np.arange(ITEMS) < share * ITEMS).astype(float)
    return Measure(name, right, np.ones(ITEMS), np.full(ITEMS, 0.25), True, "%")


def shown(*measures: Measure) -> list[str]:
    out = io.StringIO()
    console = Console(console=RichConsole(file=out, highlight=False, soft_wrap=True))
    console.reference(Evaluation(measures), {"windows": ITEMS}, Gate().plan(measures))
    return out.getvalue().splitlines()


SURE = quiz("zero_shot", 0.75)
# right or wrong by turns, and a margin of rounding alone: a share of it would be 1e15 points
NEAR_CHANCE = Measure(
    "image_to_text",
    np.where(np.arange(ITEMS) % 2, 0.5, 0.0),
    np.ones(ITEMS),
    np.full(ITEMS, 0.25 - 1e-16),
    True,
    "%",
)


def test_only_measures_above_chance_say_what_can_be_told() -> None:
    assert abs(NEAR_CHANCE.value - NEAR_CHANCE.chance) < 1e-12
    (_, alone), (_, told) = shown(SURE), shown(SURE, NEAR_CHANCE)
    assert alone.strip() == "that many windows tell a loss of 4.8 points from none"
    assert told.strip() == f"{alone.strip()}; at chance on image to text, which cannot decide"


def test_measures_of_other_items_are_told_apart() -> None:
    few = Measure("arc_easy", SURE.items[-250:-50], np.ones(200), np.full(200, 0.25), True, "%")
    _, told = shown(SURE, few)
    assert told.strip().startswith("losses that are told from none: 4.8 points on zero shot to ")
    assert told.strip().endswith(" on arc easy with its 200 items")


def test_a_reference_at_chance_throughout_tells_nothing() -> None:
    _, told = shown(quiz("zero_shot", 0.25), NEAR_CHANCE)
    assert told.strip() == "at chance on zero shot, image to text, which cannot decide"


def test_no_loss_is_of_more_than_a_hundred_points() -> None:
    # twelve of 400 right for three by chance, and one of them worth more than all: a mean that is hardly known
    items = np.where(np.arange(ITEMS) < 12, 1.0, 0.0)
    items[0] = 1000.0
    weak = Measure("weak", items, np.ones(ITEMS), np.full(ITEMS, 3 / ITEMS), True, "%")
    _, told = shown(weak)
    assert told.strip() == "that many windows tell a loss of 100.0 points from none"

"""A gate within a run: what is said beforehand, what is refused, and verdicts that take fewer items."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console as RichConsole

from callbacks.cascade import Cascade
from callbacks.console import Console
from callbacks.gate_run import foresee, joined, looked_at
from callbacks.stages.contrast import ContrastStage
from callbacks.stages.stage import Stage
from callbacks.time_budget import TimeBudget
from fulgurite.evaluation import Evaluation, Gate, Measure
from fulgurite.evaluation.language import evaluate_language
from fulgurite.reporting.record import read_record
from lightning_modules.language_compression import LanguageCompression

Compress = Callable[..., tuple[int, Path]]


def uniform(bits: int, **settings: Any) -> dict[str, Any]:
    arguments = {"bits": bits, "group_size": 32, "entropy": True}
    return {"codec": {"class_path": "UniformCodec", "init_args": arguments}, **settings}


def quiz(share: float, n: int) -> Measure:
    right = (np.arange(n) < share * n).astype(float)
    return Measure("quiz", right, np.ones(n), np.full(n, 0.25), True, "%")


def said(*measures: Measure, **needed: float) -> str:
    gate = Gate()
    plan = gate.plan(measures)
    stages = {name: Stage(min_retention=value) for name, value in needed.items()}
    out = io.StringIO()
    console = Console(console=RichConsole(file=out, highlight=False, soft_wrap=True))
    console.reference(Evaluation(measures), {"windows": 400}, plan, foresee(gate, stages, plan))
    return out.getvalue()


def test_too_few_items_are_said_with_how_many_it_takes() -> None:
    told = said(quiz(0.6, 400), first=0.98, later=0.5)
    # error 0.447 * sqrt(0.24 / 399) / 0.35 = 3.1 %, for 2 points: (3.29 * 3.1 / 2) squared is 26 times
    assert "first needs 98 %: 84 % of stages that lose nothing would be rejected" in told
    items = int(told.split("for 5 % it takes ")[1].split(" windows")[0].replace(",", ""))
    assert items == pytest.approx(400 * (3.29 * 3.13 / 2) ** 2, rel=0.03)
    assert "later" not in told, "where items suffice nothing is said"


def test_measures_of_other_items_each_take_more() -> None:
    told = said(quiz(0.6, 400), replace(quiz(0.6, 200), name="other"), first=0.98)
    times = float(told.split("for 5 % it takes ")[1].split(" times the items of each measure")[0])
    assert (
        10 < times < 40
    )  # 26 for the larger one alone, twice that for the other, and both of them together less


def test_what_no_number_of_items_mends_is_said() -> None:
    assert "strict needs 100 %: 95 % of stages that lose nothing would be rejected, however many" in said(
        quiz(0.6, 400), strict=1.0
    )


def test_a_run_in_which_nothing_can_be_told_is_refused_before_its_first_stage(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    # one window has no spread to be surer than chance by
    cascade = {"limit_windows": 1, "stages": {"eight": uniform(8)}}
    status, folder = compress(cascade)
    shown = capsys.readouterr()
    assert status == 1
    assert "no measure can decide, so no stage could be accepted" in shown.err
    assert "bits_per_byte" in shown.err
    assert "--allow-uninformative" in shown.err
    assert not list(folder.glob("stages/*"))
    status, folder = compress(cascade, "--allow-uninformative")
    assert status == 3, "all is run, nothing accepted"
    (stage,) = read_record(folder)["stages"]
    assert stage["verdict"].startswith("no measure can decide")


def test_the_record_says_what_could_be_told(compress: Compress) -> None:
    _, folder = compress({"stages": {"eight": uniform(8), "six": uniform(6, min_retention=0.5)}})
    reference = read_record(folder)["reference"]
    assert [entry["stage"] for entry in reference["plan"]] == ["eight", "six"]
    assert [entry["needed"] for entry in reference["plan"]] == [0.98, 0.5]
    assert reference["plan"][1]["harmless_rejected"] < 1e-6
    assert all(score["informative"] and score["items"] == 100 for score in reference["scores"].values())


def test_looks_end_as_soon_as_a_verdict_is_sure(
    compress: Compress, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = {"looks": 4, "stage_retention": [0.9]}
    stages = {"eight": uniform(8), "six": uniform(6), "one": uniform(1, retries=0)}
    status, folder = compress({"gate": gate, "stages": stages})
    record = read_record(folder)
    assert (status, record["level"]) == (0, "six")
    looks = [stage["tries"][0]["looks"] for stage in record["stages"]]
    assert all(each["of"] == 100 and each["most"] == 4 for each in looks)
    assert looks[0]["seen"] <= 50
    assert looks[2]["seen"] == 25, "one bit is hopeless at the first look"
    for stage, look in zip(record["stages"], looks, strict=True):
        assert {m["items"] for m in stage["tries"][0]["gate"]["per_measure"]} == {look["seen"]}


def test_looks_and_all_items_come_to_the_same(compress: Compress) -> None:
    stages = {"eight": uniform(8), "three": uniform(3, retries=0)}
    ends = []
    for looks in (1, 4):
        _, folder = compress(
            {"gate": {"looks": looks, "stage_retention": [0.95]}, "stages": stages}, name=f"looks-{looks}"
        )
        ends.append([stage["accepted"] for stage in read_record(folder)["stages"]])
    assert ends == [[True, False]] * 2


def test_where_items_cannot_be_taken_apart_it_is_said_why() -> None:
    stages = {"contrast": ContrastStage("with.txt", "without.txt")}
    run: Any = SimpleNamespace(
        cascade=Cascade(stages=stages, gate=Gate(looks=4)), reference=SimpleNamespace(module=0)
    )
    assert looked_at(run, []) == (None, "a stage makes another network, whose items may be others")
    run.cascade.stages = {}
    assert looked_at(run, []) == (None, "int scores all items together")
    run.cascade.gate = Gate()
    assert looked_at(run, []) == (None, ""), "one look: nothing to say"


def test_parts_joined_are_the_whole() -> None:
    import torch
    from torch import nn

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 20)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.table(input_ids)

    class Windows:
        def __init__(self, input_ids: torch.Tensor, num_bytes: torch.Tensor) -> None:
            self.input_ids, self.num_bytes = input_ids, num_bytes

    ids = torch.randint(0, 20, (12, 9), generator=torch.Generator().manual_seed(0))
    sizes, unigram, network = torch.arange(1, 13), torch.full((20,), 0.05), Fixed()

    def scores(part: slice) -> Evaluation:
        found = evaluate_language(network, Windows(ids[part], sizes[part]), unigram=unigram)
        return Evaluation(found.measures, {"perplexity": found.perplexity, "speed": 1.0, "none": None})

    whole = scores(slice(0, 12))
    both = joined(scores(slice(0, 5)), scores(slice(5, 12)), 5, 12)
    for one, other in zip(whole.measures, both.measures, strict=True):
        np.testing.assert_allclose(one.items, other.items)
    assert both.facts["perplexity"] == pytest.approx(whole.facts["perplexity"])
    assert both.facts["none"] is None


def test_language_modules_take_their_items_apart() -> None:
    from lightning_modules.compressible import EvaluatesItems

    assert issubclass(LanguageCompression, EvaluatesItems)


def outcome(encode: float, refine: float) -> dict[str, Any]:
    return {"seconds": {"encode": encode, "refine": refine, "evaluate": None}}


def test_a_try_is_begun_only_if_it_ends_in_time() -> None:
    budget = TimeBudget(1.0)
    assert budget.refusal() is None, "nothing is known of the first"
    budget.took(outcome(20, 20))
    assert budget.refusal() is None
    assert budget.expected(2.0) == 60, "twice the refinement takes twice its time"
    refused = budget.refusal(2.0)
    assert refused is not None
    assert refused.startswith("the time budget of 1 minutes has ")
    assert refused.endswith("left, and a try takes about 1:00")
    assert TimeBudget(None).refusal(1e9) is None


def test_the_budget_stops_a_run_before_a_try_that_is_too_long(compress: Compress) -> None:
    # 0.00001 minutes are over before the second stage
    status, folder = compress(
        {"time_budget_minutes": 0.00001, "stages": {"eight": uniform(8), "six": uniform(6)}}
    )
    record = read_record(folder)
    assert status == 3
    assert record["stages"] == []
    assert any("is not begun" in note for note in record["notes"])

"""From a rejection to changed keys: each pattern by its rule, and where an error stands out."""

from typing import Any

import numpy as np
import pytest

from callbacks.recommendation import RULES, errors_of, recommend, rules_markdown, steps_markdown
from callbacks.stages import Refine, Stage
from callbacks.stages.contrast import ContrastStage
from callbacks.stages.stage import PROTECTED
from fulgurite.codecs import Codec, EcqCodec, UniformCodec
from fulgurite.evaluation import Gate, Measure, Verdict
from fulgurite.evaluation.checks import check_share
from fulgurite.evaluation.recommend import outstanding, tower_of
from fulgurite.evaluation.stage_checks import StageCheck, with_checks

STAGE = Stage(UniformCodec(bits=3, group_size=32), refine=Refine(steps=50))
NAMES = [
    f"model.layers.{layer}.{part}.weight"
    for layer in range(4)
    for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
]


def layers(**errors: float) -> list[dict[str, Any]]:
    """Layers with an error of 0.01, or as given by a part of their names."""
    return [
        {
            "weight": name,
            "nmse": next((error for part, error in errors.items() if part in name), 0.01),
            "weighted_error": None,
        }
        for name in NAMES
    ]


def text(kept: float, name: str = "bits_per_byte") -> Measure:
    items = np.linspace(0.9, 1.1, 400) + 2 * (1 - kept)  # chance is 3
    return Measure(name, items, np.ones(400), np.full(400, 3.0), False, "bits/byte")


def judged(*kept: float, previous: float = 1.0) -> Verdict:
    names = [f"measure {place}" for place in range(len(kept))]
    return Gate().decide(
        [text(1.0, name) for name in names],
        [text(previous, name) for name in names],
        [text(each, name) for each, name in zip(kept, names, strict=True)],
        stage_index=2,  # needs 90 %
    )


def checked(*shares: float) -> Verdict:
    """Scores hold; strict checks of 0.7 to 0.8 find these shares."""
    checks = [
        check_share(f"check {place}", share, 100, least=0.7, most=0.8) for place, share in enumerate(shares)
    ]
    return with_checks(judged(1.0), [StageCheck(check, check, strict=True) for check in checks])


MILD, SEVERE = judged(0.85), judged(0.5)
EXPERT = judged(1.0, 1.0, 1.0, 1.0, 0.75)  # a mean of 95 %, and one under 80 %
INTEGRATION = judged(0.82, previous=0.86)  # 95 % of the last level, 82 % of the reference


def changes(
    verdict: Verdict, found: list[dict[str, Any]] | None = None, stage: Stage = STAGE, **more: Any
) -> Any:
    advice = recommend(stage, verdict, layers() if found is None else found, **more)
    return None if advice is None else advice[1]


def test_a_mild_loss_everywhere_takes_the_small_step() -> None:
    assert changes(MILD) == ["bits 3 -> 4"]  # groups of 32 are the smallest


def test_a_severe_loss_takes_the_large_step_and_longer_refinement() -> None:
    coarse = Stage(EcqCodec(rate=2.0), refine=Refine(steps=50))
    assert changes(SEVERE, stage=coarse) == ["rate 2.0 -> 2.5", "refine.steps 50 -> 100"]
    assert changes(MILD, stage=coarse) == ["rate 2.0 -> 2.2"]


def test_where_a_kind_of_weights_stands_out_it_alone_is_changed() -> None:
    advice = recommend(STAGE, MILD, layers(self_attn=0.05))
    assert advice is not None
    stage, told = advice
    assert told == ["attention (8 weights) at uniform, bits 4"]
    assert stage.codec == STAGE.codec
    assert {name for name in stage.overrides} == {name for name in NAMES if "self_attn" in name}
    assert all(codec == UniformCodec(bits=4, group_size=32) for codec in stage.overrides.values())
    # and once more: what was changed goes on from there
    again = recommend(stage, MILD, layers(self_attn=0.05))
    assert again is not None
    assert again[1] == ["attention (8 weights) at uniform, bits 5"]


def test_after_a_severe_loss_it_is_changed_further_than_the_others() -> None:
    advice = recommend(STAGE, SEVERE, layers(self_attn=0.05, **{"layers.0.mlp.up_proj": 0.3}))
    assert advice is not None
    stage, told = advice
    assert told[0] == "bits 3 -> 4"
    assert stage.overrides["model.layers.0.mlp.up_proj.weight"] == PROTECTED
    assert "refine.steps 50 -> 100" in told


def test_one_tower_is_a_group() -> None:
    errors = {f"visual.transformer.resblocks.{i}.attn.in_proj_weight": 0.01 for i in range(2)}
    errors |= {f"visual.transformer.resblocks.{i}.mlp.c_fc.weight": 0.01 for i in range(2)}
    errors |= {f"transformer.resblocks.{i}.attn.in_proj_weight": 0.05 for i in range(2)}
    errors |= {f"transformer.resblocks.{i}.mlp.c_fc.weight": 0.05 for i in range(2)}
    found = outstanding(errors)
    assert found is not None
    assert found[0] == "text tower"
    assert all(tower_of(name) == "text tower" for name in found[1])


@pytest.mark.parametrize(
    "errors", [{}, dict.fromkeys(NAMES, 0.01), {NAMES[0]: 0.02, NAMES[1]: 0.011}, {NAMES[0]: 1.0}]
)
def test_where_nothing_stands_out_nothing_is_blamed(errors: dict[str, float]) -> None:
    assert outstanding(errors) is None


def test_each_kind_of_rejection_has_its_own_changes() -> None:
    assert (EXPERT.accepted, INTEGRATION.accepted) == (False, False)
    assert changes(EXPERT) == ["bits 3 -> 4", "refine.steps 50 -> 100"]
    assert changes(INTEGRATION) == ["bits 3 -> 4"]
    assert changes(checked(0.5)) == ["bits 3 -> 4", "refine.steps 50 -> 100"]
    coarse = Stage(EcqCodec(rate=2.0))
    assert changes(checked(0.5), stage=coarse) == ["rate 2.0 -> 2.2"]
    assert changes(checked(0.5, 0.5), stage=coarse) == ["rate 2.0 -> 2.5"]
    assert changes(checked(0.9), stage=coarse) is None, "what is too good needs no more bits"
    assert changes(checked(0.5, 0.9), stage=coarse) == ["rate 2.0 -> 2.2"], "one of the two is a loss"


def test_nothing_is_changed_where_it_would_mend_nothing() -> None:
    assert changes(judged(1.0)) is None
    undecided = Gate().decide([text(0.0)], [text(0.0)], [text(0.0)], 0)
    assert changes(undecided) is None
    assert changes(MILD, stage=ContrastStage("a.txt", "b.txt")) is None
    assert changes(MILD, stage=Stage(UniformCodec(bits=8, group_size=32))) is None


def test_errors_are_those_of_the_metric_where_all_weights_have_one() -> None:
    found = layers()
    assert set(errors_of(found).values()) == {0.01}
    for place, layer in enumerate(found):
        layer["weighted_error"] = 0.1 * place
    assert errors_of(found)[NAMES[2]] == pytest.approx(0.2)


def test_the_tables_show_every_rule_and_the_codecs_own_steps() -> None:
    table = rules_markdown()
    assert table.count("\n") == len(RULES) + 1
    assert "| expert | the mean holds, single benchmarks do not | severe |" in table
    codecs: list[Codec] = [UniformCodec(bits=4, group_size=128), UniformCodec(bits=8, group_size=32)]
    steps = steps_markdown(codecs).splitlines()[2:]
    assert steps[0] == r"| uniform | group\_size 128 -\> 64 | bits 4 -\> 5 |"
    assert steps[1] == "| uniform | nothing | nothing |"

"""A network in memory answers as the harness's own ``hf`` model does, which is the judge of each test here."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

CONTEXTS = ["the cat sat", "the cat sat on a red mat ", "", "<s>two old dogs", "the cat saw two birds " * 40]
CONTINUATIONS = [" on", " on a red mat", "the birds sing", " who sing\nat noon", " ü"]


@pytest.fixture(scope="module")
def theirs(small_llama: Path) -> Any:
    """The harness's own model around a network that it has loaded itself."""
    pytest.importorskip("accelerate", reason="the harness's own model needs it")
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(small_llama), device="cpu", batch_size=3, dtype="float32")


@pytest.fixture(scope="module")
def ours(loaded: tuple[Any, Any]) -> Any:
    from fulgurite.evaluation.harness.network_lm import NetworkLM

    return NetworkLM(*loaded, batch_size=4)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


def test_log_probabilities_of_choices(ours: Any, theirs: Any) -> None:
    asked = requests("loglikelihood", [(one, other) for one in CONTEXTS for other in CONTINUATIONS])
    found, expected = (lm.loglikelihood(asked, disable_tqdm=True) for lm in (ours, theirs))
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_the_greedy_continuation_is_known_as_such(ours: Any, theirs: Any) -> None:
    (said,) = theirs.generate_until(
        requests("generate_until", [("the cat", {"until": [], "max_gen_toks": 1})]), disable_tqdm=True
    )
    pair = requests("loglikelihood", [("the cat", said)])
    assert ours.loglikelihood(pair, disable_tqdm=True)[0][1] is True
    assert theirs.loglikelihood(pair, disable_tqdm=True)[0][1] is True


def test_texts_longer_than_the_network_are_read_in_windows(ours: Any, theirs: Any) -> None:
    texts = [
        "the cat",
        "two old dogs run over green hills. " * 60,
        "<s>birds",
    ]  # about 900 tokens, 128 positions
    asked = requests("loglikelihood_rolling", [(text,) for text in texts])
    expected = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked, disable_tqdm=True) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("until", [["\n"], [" "], ["a", "e"], []], ids=repr)
def test_answers_in_free_text(ours: Any, theirs: Any, until: list[str]) -> None:
    settings = {"until": until, "max_gen_toks": 40, "do_sample": False}
    # of a batch the harness looks at the first prompt alone, whether it has a beginning of its own
    prompts = [prompt for prompt in CONTEXTS if prompt and not prompt.startswith("<s>")]
    asked = requests("generate_until", [(prompt, settings) for prompt in prompts])
    assert ours.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)


def test_a_text_that_ends_itself_stops_there(loaded: tuple[Any, Any]) -> None:
    from fulgurite.evaluation.harness.network_lm import NetworkLM

    class Ending(nn.Module):
        """Says token 70, then the end."""

        config = loaded[0].config

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> Any:
            logits = torch.zeros(*input_ids.shape, 300)
            logits[..., 70] = 1
            logits[..., 1] = 2 * (input_ids == 70)
            return type("Output", (), {"logits": logits})

    tokenizer = loaded[1]
    asked = requests(
        "generate_until", [("the cat", {"until": []}), ("a mat", {"until": [], "max_gen_toks": 9})]
    )
    asked[0].arguments[1]["max_gen_toks"] = 9
    assert NetworkLM(Ending(), tokenizer).generate_until(asked) == [tokenizer.decode([70])] * 2


def test_a_network_without_a_cache_reads_the_text_again(loaded: tuple[Any, Any], ours: Any) -> None:
    from fulgurite.evaluation.harness.network_lm import NetworkLM

    class Forgetting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = loaded[0]
            self.config = self.inner.config

        def forward(
            self,
            input_ids: torch.Tensor,
            attention_mask: torch.Tensor,
            position_ids: torch.Tensor,
            use_cache: bool,
        ) -> Any:
            return self.inner(
                input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
            )

    asked = requests(
        "generate_until",
        [(text, {"until": ["\n"], "max_gen_toks": 20}) for text in ("the cat", "a red mat and")],
    )
    assert NetworkLM(Forgetting(), loaded[1]).generate_until(asked) == ours.generate_until(asked)


def test_the_network_and_its_tokenizer_are_left_as_they_were(loaded: tuple[Any, Any]) -> None:
    from fulgurite.evaluation.harness.network_lm import NetworkLM

    network, tokenizer = loaded
    network.train()
    before = (tokenizer.pad_token, tokenizer.padding_side, dict(tokenizer.init_kwargs))
    lm = NetworkLM(network, tokenizer)
    lm.generate_until(requests("generate_until", [("the cat", {"until": [], "max_gen_toks": 3})]))
    lm.loglikelihood(requests("loglikelihood", [("the", " cat")]), disable_tqdm=True)
    assert network.training
    assert (tokenizer.pad_token, tokenizer.padding_side, dict(tokenizer.init_kwargs)) == before
    network.eval()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"until": [], "do_sample": True, "temperature": 1.0}, "do_sample false"),
        (
            {"until": [], "max_gen_toks": 128},
            "must leave positions for the prompt: got 128 of the network's 128",
        ),
        ({"until": [], "top_k": 3}, r"got also \['top_k'\]"),
    ],
)
def test_what_cannot_be_asked_for_is_said(ours: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ours.generate_until(requests("generate_until", [("the cat", settings)]))


@pytest.mark.parametrize("continuation", ["", "cat" * 200])
def test_a_continuation_that_cannot_be_scored(ours: Any, continuation: str) -> None:
    with pytest.raises(ValueError, match="a continuation must have 1 to 128 tokens"):
        ours.loglikelihood(requests("loglikelihood", [("the", continuation)]), disable_tqdm=True)


def test_a_diverged_network_says_so(loaded: tuple[Any, Any]) -> None:
    from fulgurite.evaluation.harness.network_lm import NetworkLM

    class Broken(nn.Module):
        config = loaded[0].config

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return torch.full((*input_ids.shape, 300), math.nan)

    asked = requests("loglikelihood", [("the", " cat")])
    assert math.isnan(NetworkLM(Broken(), loaded[1]).loglikelihood(asked, disable_tqdm=True)[0][0])

"""HumanEval: the function that a network writes is run with its tests, in a sandbox.

    prompt + answer + tests -> Sandbox -> passed or not

Reference: Chen et al., "Evaluating Large Language Models Trained on Code", 2021, https://arxiv.org/abs/2107.03374.
One answer a problem, the most probable one: pass@1 is its mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fulgurite.evaluation.sandbox import find_sandbox


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Whether the answer passes the problem's tests; what the harness calls for each item.

    Raises:
        SandboxUnavailable: If there is nowhere to run it.
    """
    program = f"{doc['prompt']}{results[0]}\n{doc['test']}\ncheck({doc['entry_point']})\n"
    return {"pass@1": float(find_sandbox().run(program).passed)}

"""A sweep of Weights & Biases as a search of our own: the same keys and values, drawn by Optuna without an account.

configs/sweeps/<name>.yaml -> search_of_sweep -> what configs/search/<name>.yaml would say
configs/sweeps/<name>.yaml -> flags_of_sweep -> the verb and what follows it, before ${args}

Sweep files: https://docs.wandb.ai/guides/sweeps/sweep-config-keys
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

SAMPLERS = {"bayes": "tpe", "random": "random", "grid": "grid"}
METRICS = {
    "rate/bytes": "bytes",
    "rate/ratio": "ratio",
    "rate/bits_per_weight": "bits_per_weight",
    "gate/cumulative": "retention",
    "gate/cumulative_low": "retention_low",
}
"""Names that a run logs, and what a search calls them; ``score/...`` and ``retention/...`` are called alike."""

_RANGES: dict[str, dict[str, Any]] = {
    "uniform": {"type": "float"},
    "q_uniform": {"type": "float"},
    "int_uniform": {"type": "int"},
    "log_uniform_values": {"type": "float", "log": True},
}


def flags_of_sweep(sweep: Mapping[str, Any]) -> list[str]:
    """The verb and its flags as a sweep's ``command`` has them, without what the agent puts in.

    Raises:
        ValueError: If the command is none of ours.
    """
    command = [str(part) for part in sweep.get("command") or []]
    if "fulgurite" not in command or "${args}" not in command:
        raise ValueError(f"command must be [..., fulgurite, VERB, ..., ${{args}}], got {command}")
    verb = command.index("fulgurite") + 1
    if command.index("${args}") <= verb:
        raise ValueError(f"command must have the verb before ${{args}}, got {command}")
    return [part for part in command[verb:] if part != "${args}"]


def search_of_sweep(sweep: Mapping[str, Any], trials: int) -> dict[str, Any]:
    """The content of a search file that varies what a sweep varies.

    Args:
        sweep: As YAML gives it.
        trials: How many runs.

    Raises:
        ValueError: If it asks for something that a search does not have.
    """
    verb, *flags = flags_of_sweep(sweep)
    given = _given(flags)
    if verb != "compress" or "config" not in given:
        raise ValueError(
            f"command must be compress --config RECIPE, got {verb} with {', '.join(given) or 'no flags'}"
        )
    method = str(sweep.get("method"))
    if method not in SAMPLERS:
        raise ValueError(f"method must be one of {', '.join(SAMPLERS)}, got {method!r}")
    metric = sweep.get("metric") or {}
    name = str(metric.get("name"))
    if name not in METRICS and not name.startswith(("score/", "retention/")):
        raise ValueError(
            f"metric.name must be one of {', '.join(METRICS)}, score/... or retention/..., got {name!r}"
        )
    parameters = sweep.get("parameters")
    if not isinstance(parameters, Mapping) or not parameters:
        raise ValueError(f"parameters must map keys of the recipe to values or ranges, got {parameters!r}")
    fixed = {key: entry["value"] for key, entry in parameters.items() if "value" in entry}
    overrides = {
        key: value for key, value in given.items() if key != "config" and not key.startswith("trainer.logger")
    }
    return {
        "recipe": given["config"],
        "overrides": {**overrides, **fixed},
        "space": {key: _range(key, entry) for key, entry in parameters.items() if key not in fixed},
        "objectives": [{"metric": METRICS.get(name, name), "direction": str(metric.get("goal", "minimize"))}],
        "sampler": SAMPLERS[method],
        "trials": trials,
    }


def _given(flags: list[str]) -> dict[str, Any]:
    """Flags as keys and values, in either form: ``--key=value`` or ``--key value``."""
    found: dict[str, Any] = {}
    rest = list(flags)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--"):
            raise ValueError(f"command must have flags that begin with --, got {flag!r}")
        key, sign, value = flag.removeprefix("--").partition("=")
        if not sign:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"command: flag {flag} must have a value")
            value = rest.pop(0)
        found[key] = value if key == "config" else yaml.safe_load(value)
    return found


def _range(key: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    if "values" in entry:
        return {"choices": list(entry["values"])}
    if not {"min", "max"} <= entry.keys():
        raise ValueError(f"parameters.{key} must have value, values, or min and max, got {dict(entry)}")
    low, high = entry["min"], entry["max"]
    whole = isinstance(low, int) and isinstance(high, int)
    distribution = str(entry.get("distribution", "int_uniform" if whole else "uniform"))
    if distribution not in _RANGES:
        raise ValueError(
            f"parameters.{key}: distribution must be one of {', '.join(_RANGES)}, got {distribution!r}"
        )
    found = {**_RANGES[distribution], "low": low, "high": high}
    if distribution == "q_uniform":
        step = entry.get("q", 1)
        found |= {"step": step, "type": "int" if whole and isinstance(step, int) else "float"}
    return found

"""The page on adaptive ratios says what results say: met, missed or out of reach."""

import importlib
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SETTINGS = {"steps": 4, "learn_steps": 8, "batch": 16, "codes": 4}


def _bounds(most: float) -> dict[str, Any]:
    found = {
        "uniform": 0.3, "least_worst": most, "least_worst_mean": 1.2, "least_mean": most, "least_mean_mean": 1.3,
    }  # fmt: skip
    rates = {rate: found for rate in ("0.5", "1", "1.5", "2")}
    return {"features": 12, "categories": 2, "rows": 90, "rates": rates}


def _fit(worst: float, error: float, dead: float = 0.01) -> dict[str, Any]:
    return {
        "worst": worst, "error": error, "bits": 1.0, "bits_per_feature": 1.01, "rows": 20, "features": 12, "codes": 3,
        "tokens": {"a": [1, 1, 0], "b": [1, 0, 0]}, "dead": dead, "decoder_bytes": 1000,
    }  # fmt: skip


def _page(monkeypatch: pytest.MonkeyPatch, results: dict[str, Any]) -> str:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    page: str = importlib.import_module("vqvae_study_page").study_page({"settings": SETTINGS} | results)
    return page


def _seeds(table: str, strategy: str, worst: float, error: float, seeds: int = 3) -> dict[str, Any]:
    # two percent between seeds, so that an interval is there and is small
    return {
        f"{table}|{strategy}|{seed}": _fit(worst * 1.02**seed, error * 1.02**seed) for seed in range(seeds)
    }


def test_a_goal_is_met_where_the_whole_interval_is_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    page = _page(
        monkeypatch,
        {"bounds|t": _bounds(9.0)}
        | _seeds("t", "uniform", 0.3, 0.1)
        | _seeds("t", "balanced", 0.05, 0.09)
        | _seeds("t", "slope", 0.05, 0.11),
    )
    (balanced,) = [line for line in page.splitlines() if line.startswith("- Goal for `balanced`")]
    assert "met, 6.00 [6.00, 6.00]" in balanced
    assert "9.00 times are to be had" in balanced
    (slope,) = [line for line in page.splitlines() if line.startswith("- Goal for `slope`")]
    assert "missed, 6.00" in slope  # as its mean error is a tenth larger
    assert "is worse (0.91 [0.91, 0.91] times less)" in slope


def test_a_goal_that_theory_denies_is_called_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    results = (
        {"bounds|t": _bounds(1.5)} | _seeds("t", "uniform", 0.3, 0.1) | _seeds("t", "balanced", 0.2, 0.1)
    )
    page = _page(monkeypatch, results)
    assert "missed, 1.50" in page
    assert "1.50 times are the most: the goal is out of reach here" in page


def test_one_seed_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"bounds|t": _bounds(9.0), "t|uniform|0": _fit(0.3, 0.1), "t|balanced|0": _fit(0.03, 0.1)}
    page = _page(monkeypatch, results)
    assert "one seed does not tell, 10.00" in page
    assert "Dead codes in the last epoch, at most in any fit: 1.0 % (met: goal 5 %)" in page


def test_a_table_at_two_rates_has_its_spectra_once(monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"bounds|t, 1 bit": _bounds(9.0), "bounds|t, 1.5 bits": _bounds(9.0)}
    page = _page(monkeypatch, results | _seeds("t, 1 bit", "uniform", 0.3, 0.1))
    assert page.count("| t | 12 in 2 |") == 1


def test_a_plain_code_that_wins_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = {"error": 0.02, "worst": 0.03, "bits_per_feature": 1.0, "decoder_bytes": 10}
    results = {f"t|plain|{seed}": {"scalar": plain, "faiss PQ": plain | {"error": 0.5}} for seed in range(3)}
    fits = _seeds("t", "uniform", 0.3, 0.1) | _seeds("t", "slope", 0.1, 0.08)
    page = _page(monkeypatch, {"bounds|t": _bounds(9.0)} | fits | results)
    assert "A plain code wins here: scalar." in page

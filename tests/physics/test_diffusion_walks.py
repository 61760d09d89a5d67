"""T22: bias and coverage of the diffusivity on walks with returns, cages and ions that move together; D = 0 is a limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.diffusion_walks import WALKS, judge
from mdistill.analysis import diffusion as module

COUNT = 16
DIFFUSING = [
    "160 lasting hops",
    "and 30 % jump-and-return pairs",
    "and a fast cage of 8 sites",
    "three ions together",
    "one dimension",
    "two dimensions",
    "30 hops",
    "6 runs: jump-and-return pairs",
]
AT_REST = ["6 runs: closed cage", "rattling 0.5 Å, white", "rattling 0.5 Å, 1 ps", "rattling 0.5 Å, 5 ps"]


def check_diffusing(name: str, count: int = COUNT) -> dict[str, Any]:
    """Binomial limits at about 1 in 1000 for coverage 0.95 and detection 0.95; bias of 3 % within twice its error."""
    row = judge(WALKS[name], range(count))
    assert row["in 95 %"] >= 0.75 * count and row["diffusive"] >= 0.75 * count, row
    assert row["in ± error"] >= 0.45 * row["diffusive"], row
    assert row["quoted error / truth"] >= 0.9 * row["scatter / truth"], row
    assert abs(row["mean D / truth"] - 1.0) <= 0.03 + 2.0 * row["its error"], row
    assert row["log slope 1 in 95 %"] >= 0.75 * count, row
    return row


def check_at_rest(name: str, count: int = COUNT) -> dict[str, Any]:
    row = judge(WALKS[name], range(count))
    assert row["diffusive"] == 0 and row["in 95 %"] == count, row
    return row


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFUSING)
def test_walks_that_diffuse(name: str, trust: Callable[..., None]) -> None:
    row = check_diffusing(name)
    trust("T22", f"{name}: mean D over truth", row["mean D / truth"], "1.00 ± 0.03")
    trust("T22", f"{name}: walks of {COUNT} within the 95 % interval", row["in 95 %"], f"≥ {0.75 * COUNT:g}")


@pytest.mark.slow
@pytest.mark.parametrize("name", AT_REST)
def test_walks_at_rest_are_never_detected(name: str, trust: Callable[..., None]) -> None:
    row = check_at_rest(name)
    trust("T25", f"{name}: walks of {COUNT} with a value of D", row["diffusive"], "0")


@pytest.mark.slow
def test_most_closed_cages_are_noticed_in_one_run(trust: Callable[..., None]) -> None:
    """The MSD of a cage that fills within 50 ps is nearly straight in 100 ps: a few in a hundred pass as diffusion."""
    row = judge(WALKS["closed cage, 33 ps a site"], range(COUNT))
    assert row["diffusive"] <= 3
    trust("T25", f"closed cage, one run of 100 ps: walks of {COUNT} with a value of D", row["diffusive"], "≤ 3")


@pytest.mark.slow
@pytest.mark.planted
@pytest.mark.parametrize("bug", ["no relaxation", "errors 2.4 times too small", "no slope"])
def test_walks_notice(bug: str, monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    name = "the same for 500 ps"
    if bug == "no relaxation":
        monkeypatch.setattr(module, "LONGEST_RELAXATION", 0.0)
    elif bug == "errors 2.4 times too small":
        name = "three ions together"
        monkeypatch.setattr(module, "inflation_of", lambda runs, spacing, curve: 0.5)
    else:
        name = "6 runs: closed cage"
        monkeypatch.setattr(module, "SURE_OF_RUNS", 100.0)
    with pytest.raises(AssertionError):
        (check_at_rest if bug == "no slope" else check_diffusing)(name)
    trust("T22", f"planted: {bug}", "noticed", "noticed", planted=True)


def test_the_value_lies_inside_its_interval_where_few_hops_were_seen() -> None:
    from benchmarks.diffusion_walks import lasting, trajectory_of
    from mdistill.analysis.diffusion import diffusivity

    for hops in (4, 12):
        path = lasting(np.random.default_rng(hops), 801, hops=hops)
        tracer = diffusivity(trajectory_of(path), species="Li").tracer
        assert tracer.value is not None and tracer.interval is not None
        low, high = tracer.interval
        assert low < 0.8 * tracer.value and high > 1.3 * tracer.value
        assert high - tracer.value > tracer.value - low, "a rate is uncertain by a factor"

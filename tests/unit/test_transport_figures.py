"""Figures of transport: every run, axis and element; measured values of the same composition; doubts of headlines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdistill.estimates import Estimate
from mdistill.observables.measured import measured_conductivities, with_measurements
from mdistill.observables.trajectories import Runs, transport_results
from mdistill.report.figures import figure_svg
from mdistill.runs.results import Figure, Results, Series
from mdistill.types import Trajectory
from walks import hoppers


def along_x(seed: int) -> Trajectory:
    """Li that walk along the first axis of a host that slides."""
    trajectory, _ = hoppers(seed, vibration=0.1)
    positions, lithium = trajectory.positions.clone(), trajectory.numbers == 3
    slide = positions[:, -1:] - positions[:1, -1:]
    positions[:, lithium, 1:] = (positions[:1, lithium] + slide)[..., 1:]
    return replace(trajectory, positions=positions)


@pytest.fixture(scope="module")
def results() -> Results:
    runs = [Runs(temperature_K=t, trajectories=[along_x(seed), along_x(seed + 1)]) for t, seed in ((700.0, 1), (500.0, 5))]
    return transport_results(runs, species="Li")


def figure(results: Results, name: str) -> Figure:
    return next(one for one in results.figures if one.name == name)


def test_each_run_is_a_thin_line_about_the_mean(results: Results) -> None:
    drawn = figure(results, "msd-loglog").series
    for kelvin in ("500 K", "700 K"):
        mean = next(one for one in drawn if one.label == kelvin)
        thin = [one for one in drawn if one.style == "thin" and one.subject == kelvin]
        assert len(thin) == 2 and thin[0].x == mean.x
        np.testing.assert_allclose(np.mean([one.y for one in thin], axis=0), mean.y, rtol=1e-6)
    svg = figure_svg(figure(results, "msd-loglog"))
    assert "run 1" not in svg and "700 K" in svg, "single runs are not in the legend"


def test_motion_along_one_axis_is_seen(results: Results) -> None:
    a, b, c = figure(results, "msd-axes").series
    assert a.y[-1] > 100.0 * b.y[-1] and a.y[-1] > 100.0 * c.y[-1]
    whole = next(one for one in figure(results, "msd").series if one.label == "700 K")
    assert a.y[-1] == pytest.approx(whole.y[-1], rel=0.02), "the hottest state"
    elements = figure(results, "msd-elements").series
    assert elements[0].label == "Li" and elements[0].y[-1] > 50.0 * elements[1].y[-1]


def test_paths_of_the_hottest_state_are_a_scene(results: Results) -> None:
    (scene,) = results.scenes
    assert "700 K" in scene.title and scene.mobile == 3 and scene.hops


def test_extrapolated_and_undetected_values_are_doubted(results: Results) -> None:
    told = {(h.quantity, h.temperature_K): h.doubts for h in results.headlines}
    assert told["conductivity", 300.0][0] == "Extrapolated from 500–700 K."
    still = along_x(1)
    still = replace(still, positions=still.positions[:1] + 0.01 * torch.randn(still.positions.shape, dtype=torch.float64))
    frozen = transport_results([Runs(temperature_K=500.0, trajectories=[still])], species="Li")
    assert all(h.doubts == ["No hop was seen: an upper limit."] for h in frozen.headlines)


TABLE = """ID,Reduced Composition,Ionic conductivity (S cm-1),DOI
a,Li6PS5Cl,0.00205,10.1/x
b,Li12P2S10Cl2,<1E-5,10.1/y
c,Li6PS5Br,0.1,10.1/z
d,Li5.5PS4.5Cl1.5,0.01,10.1/z
"""


def test_measured_values_of_the_composition_alone(tmp_path: Path) -> None:
    numbers = [3] * 24 + [15] * 4 + [16] * 20 + [17] * 4
    assert measured_conductivities(numbers, tmp_path) == []
    (tmp_path / "obelix").mkdir()
    (tmp_path / "obelix" / "all.csv").write_text(TABLE, encoding="utf-8")
    found = measured_conductivities(numbers, tmp_path)
    assert [one.conductivity for one in found] == pytest.approx([2.05, 0.01])
    assert [(one.limit, one.source) for one in found] == [(False, "10.1/x"), (True, "10.1/y")]
    plot = Figure("arrhenius-conductivity", "", "transport", "", "", [Series("σ", [1.4], [900.0], style="points")], "arrhenius")
    drawn = with_measurements(Results(command="x", figures=[plot]), numbers, tmp_path)
    points, limits = drawn.figures[0].series[1:]
    assert points.x == limits.x == [1000.0 / 298.0] and points.y == pytest.approx([2.05]) and limits.limit and not points.limit
    assert drawn.citations == ["obelix"] and "OBELiX" in drawn.figures[0].caption
    values = {"a": Estimate(value=1.0, error=None, unit="")}
    assert with_measurements(Results(command="x", values=values), numbers, tmp_path).citations == []


def test_measured_values_of_a_formula_with_brackets(tmp_path: Path) -> None:
    (tmp_path / "obelix").mkdir()
    table = "ID,Reduced Composition,True Composition,Ionic conductivity (S cm-1),DOI\na,LiTi2(PO4)3,Li6.0Ti12.0P18.0O72.0,2e-8,10.1/x\n"
    (tmp_path / "obelix" / "all.csv").write_text(table, encoding="utf-8")
    found = measured_conductivities([3] * 6 + [22] * 12 + [15] * 18 + [8] * 72, tmp_path)
    assert [one.conductivity for one in found] == pytest.approx([2e-5])

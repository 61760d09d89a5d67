"""What is said of a long-stride map: deviations, gates that can fail, and its row in the ladder."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mdistill.errors import BadInput
from mdistill.estimates import Estimate
from mdistill.judge.dynamics import Judged
from mdistill.judge.settings import JudgeSettings, StrideRungSettings
from mdistill.judge.stride_tables import REMEDY, Compared, deviations, gates, rung, tables, values
from mdistill.labelling.settings import SegmentSettings
from mdistill.report.ladder import ladder_table
from mdistill.runs.results import Results, Rung, in_section, with_sections

HOW = JudgeSettings(temperature_K=600.0)


def kelvin(value: float, error: float = 0.5) -> Estimate:
    return Estimate(value=value, error=error, unit="K")


def run(every: float, lithium: float, *, error: float = 0.5, **more) -> Judged:
    return Judged(temperatures={"all": kelvin(every, error), "Li": kelvin(lithium, error)}, **more)


def compared(**long) -> Compared:
    small = {"NVE": run(590.0, 592.0), "Langevin": run(600.0, 600.0), "Bussi": run(600.0, 600.0)}
    runs = {"small steps": small, "long strides": small | long}
    return Compared(
        stride_fs=16.0, kicks=2, usual_fs=2.0, errors={"momentum, median": 0.004}, runs=runs, overlaps={}, reversal_A=0.0,
        per_day=[kelvin(1.0), kelvin(3.0)], speed_up=Estimate(value=4.0, error=0.4, unit="×"), fallbacks=1, strides=1000, name="x",
        atoms=52,
    )  # fmt: skip


def passed(found: Compared) -> dict[str, bool]:
    return {gate.name.removeprefix("stride: "): gate.passed for gate in gates(found, HOW)}


def test_nve_is_measured_against_small_steps_and_thermostats_against_their_temperature():
    apart = deviations(compared(NVE=run(591.0, 593.5)), "long strides", "NVE", 600.0)
    assert apart["all"].value == pytest.approx(1.0) and apart["Li"].value == pytest.approx(3.5), "elements too against all"
    assert apart["all"].error == pytest.approx(0.5 * 2**0.5)
    assert deviations(compared(Bussi=run(603.0, 590.0)), "long strides", "Bussi", 600.0)["Li"].value == pytest.approx(-10.0)


@pytest.mark.parametrize(
    ("long", "failing"),
    [
        ({}, set()),
        ({"NVE": run(585.0, 592.0)}, {"temperature"}),
        ({"Bussi": run(600.0, 594.0)}, {"temperature of each element"}),
        ({"Langevin": run(600.0, 600.0, error=3.0)}, {"temperature"}),
        ({"NVE": Judged(temperatures={}, broken="step 7: it blew up")}, {"temperature", "temperature of each element"}),
        ({"NVE": run(590.0, 592.0, momentum=1e-6)}, {"momentum"}),
    ],
)
def test_every_gate_can_fail(long, failing):
    verdict = passed(compared(**long))
    assert {name for name, good in verdict.items() if not good} == failing


def test_a_failed_temperature_of_light_kicks_says_what_comes_nearer():
    too_cold = compared(NVE=run(570.0, 570.0))
    for light in (True, False):
        told = {gate.name: REMEDY in gate.detail for gate in gates(replace(too_cold, light=light), HOW)}
        assert told.pop("stride: temperature") == told.pop("stride: temperature of each element") == light
        assert not any(told.values())
    assert not any(REMEDY in gate.detail for gate in gates(replace(compared(), light=True), HOW)), "not where it passes"


def test_a_mean_that_is_not_known_asks_for_longer_runs():
    unknown = compared(NVE=run(590.5, 592.0, error=2.5))
    for light in (True, False):
        failed = [gate for gate in gates(replace(unknown, light=light), HOW) if not gate.passed]
        assert [gate.name for gate in failed] == ["stride: temperature"]
        assert "--strides.judge.longest-ps 13000 " in failed[0].detail and REMEDY not in failed[0].detail


def test_a_mean_not_far_beyond_its_limit_asks_for_longer_runs():
    for off, longer in ((5.5, True), (7.5, True), (8.0, False)):
        near = replace(compared(Langevin=run(600.0, 600.0 + off, error=0.9)), light=True)
        failed = [gate for gate in gates(near, HOW) if not gate.passed]
        assert [gate.name for gate in failed] == ["stride: temperature of each element"]
        assert ("--strides.judge.longest-ps" in failed[0].detail, REMEDY in failed[0].detail) == (longer, not longer)


def test_the_facts_say_how_kicks_were_made_stronger():
    adjusted = {"factor": 1.005, "off_K": -1.5, "off_error_K": 0.7}

    def facts(found: Compared) -> dict:
        return {row[0]: row[1] for row in tables(found, HOW)[2].rows}

    plain_map = replace(compared(), errors={"position": 0.01, "momentum": 0.04})
    found, plain = facts(replace(plain_map, adjusted=adjusted)), facts(plain_map)
    assert found["kick scale minus 1 (%)"] == pytest.approx(0.5)
    before = found["NVE temperature error before scaling (K)"]
    assert (before.value, before.error) == (-1.5, 0.7)
    assert set(found) - set(plain) == {"kick scale minus 1 (%)", "NVE temperature error before scaling (K)"}


def test_the_ladder_gets_the_rung_once():
    teacher = Rung(kind="teacher", name="teacher", cost=Estimate(value=3000.0, error=1.0, unit="µs/atom/step"))
    faster = Estimate(value=1500.0, error=9.0, unit="×")
    student = Rung(
        kind="potential", name="student", cost=Estimate(value=2.0, error=0.1, unit="µs/atom/step"), speed_up=faster,
        errors={"force MAE": Estimate(value=30.0, error=1.0, unit="meV/Å")}, note="Timed alternately.",
    )  # fmt: skip
    results = Results(command="distill", rungs=[teacher, student])
    found = in_section("strides", Results(command="train stride", values=values(compared()), rungs=[rung(compared(), "abc")]))
    for _ in range(2):
        results = with_sections(results, found)
        assert [one.kind for one in results.rungs] == ["teacher", "potential", "stride"]
        ladder = ladder_table(results.rungs)
        row = dict(zip(ladder.columns, ladder.rows[-1], strict=True))
        assert row["µs/atom/step"].value == pytest.approx(0.5) and row["speed-up"].value == 4.0
        assert row["error of a stride (% of velocity)"].value == pytest.approx(0.4) and row["force MAE (meV/Å)"] is None
        assert ladder.caption.startswith("Timed alternately. Cost of strides") and ladder.caption.count("Cost of strides") == 1
    assert list(results.values) == list(values(compared())) and len(results.sections) == 1


def test_settings_of_the_rung():
    settings = StrideRungSettings().resolved((500.0, 900.0, 700.0))
    assert settings.segments.temperatures_K == (500.0, 900.0, 700.0) and settings.judge.temperature_K == 700.0
    with pytest.raises(BadInput, match="frames"):
        StrideRungSettings(segments=SegmentSettings(frames=2))
    with pytest.raises(BadInput):
        replace(HOW, repeats=1)

"""The analyse workflow on runs with a known answer: values, tables, figures, notes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mdistill.errors import BadInput
from mdistill.observables.points import parts_text
from mdistill.observables.trajectories import Runs, structure_results, transport_results
from mdistill.report.page import write_report
from mdistill.runs.results import Results, read_results, write_results
from mdistill.units import BOLTZMANN
from mdistill.workflows.analyse import analyse
from mdistill.workflows.settings import AnalyseSettings
from walks import crystal, hoppers, write_extxyz


def test_one_run_from_a_file_to_the_report(tmp_path: Path) -> None:
    trajectory, true = hoppers(1, vibration=0.1)
    settings = AnalyseSettings(species="Li", temperature_K=600.0, discard_ps=5.0)
    found = analyse(write_extxyz(tmp_path / "run.extxyz", trajectory, wrapped=True), settings)
    d, sigma = found.values["diffusivity_600K"], found.values["conductivity_600K"]
    assert d.interval is not None and d.interval[0] <= true <= d.interval[1] and d.unit == "cm²/s"
    assert sigma.unit == "mS/cm" and sigma.value and sigma.error
    text = " ".join(found.notes)
    assert "wrapped" in text and "5 ps were left out" in text and "Haven ratio 1" in text
    assert {"transport", "collective", "directions", "hops", "host"} == {t.name for t in found.tables}
    assert {"msd", "msd-loglog", "msd-axes", "msd-elements", "hop-lengths", "rdf-mobile", "rdf-host"} == {
        f.name for f in found.figures
    }
    assert all("(" in f.y_label or f.y_label == "g(r)" for f in found.figures)
    write_results(tmp_path, found)
    assert read_results(tmp_path).values["diffusivity_600K"] == d
    assert write_report(tmp_path).is_file()


def test_several_temperatures_give_the_activation_energy() -> None:
    energy = 0.25
    rates = {t: 4.0 * np.exp(-energy / (BOLTZMANN * t)) for t in (500, 700, 900)}
    measured = {float(t): hoppers(t, rate=rate, frames=400)[0] for t, rate in rates.items()} | {300.0: crystal(0, vibration=0.1)}
    runs = [Runs(temperature_K=t, trajectories=[trajectory]) for t, trajectory in measured.items()]
    found = transport_results(runs, species=3)
    fitted = found.values["activation_energy"]
    assert fitted.value is not None and fitted.error is not None
    assert abs(fitted.value - energy) < 2.5 * fitted.error and fitted.error < 0.05
    assert found.values["diffusivity_300K"].value is None and found.values["diffusivity_300K"].upper_limit is not None
    true = 4.0 * np.exp(-energy / (BOLTZMANN * 300.0)) * 4.0 / 6.0 / 100.0 * 0.1
    room = found.values["extrapolated_diffusivity_300K"]
    assert room.interval is not None and room.interval[0] <= true <= room.interval[1]
    assert found.values["extrapolated_conductivity_300K"].unit == "mS/cm"
    assert any("below detection" in note and note.startswith("300 K") for note in found.notes)
    plot = next(f for f in found.figures if f.name == "arrhenius-diffusivity")
    assert plot.kind == "arrhenius" and {s.label for s in plot.series} == {"D(Li) fit", "D(Li)", "D(Li) upper limit"}


def test_extrapolation_is_flagged() -> None:
    runs = [Runs(temperature_K=t, trajectories=[hoppers(int(t), rate=0.1, frames=200)[0]]) for t in (500.0, 700.0)]
    found = transport_results(runs, species="Li")
    assert any("extrapolated from 500–700 K" in note for note in found.notes)


def test_each_run_has_a_student_or_none_has() -> None:
    with pytest.raises(BadInput, match="2 trajectories, 1 students"):
        Runs(temperature_K=300.0, trajectories=[crystal(0, frames=40), crystal(1, frames=40)], students=[1])


def committee(factors: tuple[float, ...], temperatures: tuple[float, ...] = (700.0,)) -> Results:
    """Two runs of each student; a student's rate is its factor times the true one."""
    runs = []
    for t in temperatures:
        made = [
            hoppers(round(t) + 10 * student + run, rate=0.06 * factor * t / 700.0, frames=400)[0]
            for student, factor in enumerate(factors, 1)
            for run in (1, 2)
        ]
        numbers = [student for student in range(1, len(factors) + 1) for _ in (1, 2)]
        runs.append(Runs(temperature_K=t, trajectories=made, students=numbers))
    return transport_results(runs, species="Li")


def test_students_that_differ_add_a_model_error() -> None:
    alike, apart = committee((1.0, 1.0, 1.0)), committee((0.6, 1.0, 1.6))
    for found in (alike, apart):
        total = found.values["conductivity_700K"]
        parts = [found.values[f"conductivity_{name}_700K"] for name in ("statistical", "model")]
        assert total.error == pytest.approx(np.hypot(*(part.value or 0.0 for part in parts)))
        assert all(part.unit == "mS/cm" and part.error is None for part in parts)
        headline = next(h for h in found.headlines if h.quantity == "conductivity")
        assert found.values[headline.value] == total
        cells = [next(t for t in found.tables if t.name == name).rows[0][1] for name in ("transport", "collective")]
        assert [str(cell).count("±") for cell in cells] == [2, 2]
    relative = [
        (f.values["conductivity_model_700K"].value or 0) / (f.values["conductivity_700K"].value or 1) for f in (alike, apart)
    ]
    assert relative[0] < 0.12 and 0.12 < relative[1] < 0.6
    wide, narrow = (f.values["conductivity_collective_700K"].interval or (1.0, 1.0) for f in (apart, alike))
    assert wide[1] / wide[0] > narrow[1] / narrow[0]


def test_one_student_changes_nothing() -> None:
    runs = [hoppers(seed, frames=300)[0] for seed in (1, 2)]
    plain, one = (
        transport_results([Runs(temperature_K=700.0, trajectories=runs, students=students)], species="Li")
        for students in ([], [1, 1])
    )
    assert plain.values == one.values and not any("model" in name for name in one.values)


def test_no_temperature_is_surer_of_its_students_than_the_median() -> None:
    found = committee((0.6, 1.0, 1.6), (600.0, 700.0, 900.0))
    shares = [
        (found.values[f"conductivity_model_{t}K"].value or 0.0) / (found.values[f"conductivity_{t}K"].value or 1.0)
        for t in (600, 700, 900)
    ]
    assert shares[0] > 0 and min(shares) == pytest.approx(sorted(shares)[1])


def test_activation_energy_of_a_committee() -> None:
    found = committee((0.7, 1.0, 1.4), (600.0, 900.0))
    total, statistical, model = (found.values[f"activation_energy{part}"] for part in ("", "_statistical", "_model"))
    assert total.error is not None and statistical.value is not None and model.value is not None
    assert total.error >= model.value and model.unit == "eV"
    assert str(next(t for t in found.tables if t.name == "arrhenius").rows[0][0]).count("±") == 2
    room, single = found.values["extrapolated_diffusivity_300K"], committee((1.0, 1.0, 1.0), (600.0, 900.0))
    assert room.interval is not None and "activation_energy_model" in single.values


def test_text_of_three_parts() -> None:
    assert parts_text(512.3, 34.0, 61.2) == "512 ± 34 ± 61"
    assert parts_text(1.234e-5, 0.11e-5, 0.36e-5) == "(1.2 ± 0.1 ± 0.4) × 10⁻⁵"
    assert parts_text(0.2431, 0.012, 0.0004) == "0.243 ± 0.012 ± 0.000"


def test_without_temperature_there_is_no_conductivity() -> None:
    found = analyse(hoppers(1, frames=200)[0], AnalyseSettings(species="Li"))
    assert "diffusivity" in found.values and not any("conductivity" in name for name in found.values)


def test_a_moving_host_is_reported() -> None:
    trajectory, _ = hoppers(2, frames=200)
    found = structure_results(trajectory, species="S")
    assert any("Li atoms left their sites" in note for note in found.notes)


def test_bad_settings() -> None:
    for name, value in {
        "species": "Xx", "temperature_K": 0.0, "frame_time_fs": -1.0, "discard_ps": -1.0, "every": 0, "hop_distance": 0.0,
    }.items():  # fmt: skip
        with pytest.raises(BadInput, match=name):
            AnalyseSettings(**({"species": "Li"} | {name: value}))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="leaves 0 of 40 frames"):
        analyse(crystal(0, frames=40), AnalyseSettings(species="Li", discard_ps=50.0))
    with pytest.raises(BadInput, match=r"(?s)trajectory: 12 frames.*fix: run longer, or write frames more often"):
        analyse(crystal(0, frames=12), AnalyseSettings(species="Li"))
    with pytest.raises(BadInput, match="'Na' is not in the trajectory"):
        analyse(crystal(0, frames=12), AnalyseSettings(species="Na"))
    phosphorus = crystal(0, frames=40)
    phosphorus = dataclasses.replace(phosphorus, numbers=torch.where(phosphorus.numbers == 16, 15, phosphorus.numbers))
    with pytest.raises(BadInput, match="charge"):
        analyse(phosphorus, AnalyseSettings(species="P", temperature_K=300.0))

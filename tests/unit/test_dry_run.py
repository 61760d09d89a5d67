"""The plan of the main job before it runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ase.build import bulk, molecule
from ase.io import write

from conductors import cif, conductor
from mdistill.io.structures import read_structure
from mdistill.workflows.distill_settings import DistillSettings, quick_settings, resolved
from mdistill.workflows.dry_run import dry_run


@pytest.mark.parametrize(("stride", "more"), [(None, 0.0), (16.0, 3.9)])
def test_minutes_of_learning_strides_are_in_the_plan(tmp_path, stride, more):
    path = tmp_path / "copper.cif"
    write(path, bulk("Cu", cubic=True))
    settings = quick_settings(path)
    plan = DistillSettings(
        structure=path, teacher="ase.calculators.emt:EMT", temperatures=(300.0,), stride_fs=stride, strides=settings.strides,
        train=settings.train, refine=settings.refine, label=settings.label,
    )  # fmt: skip
    rows = {str(row[0]): row for row in dry_run(plan).tables[-1].rows}
    found = [row for name, row in rows.items() if name.startswith("learn strides of 16 fs")]
    assert [row[2] for row in found] == ([more] if more else [])
    assert float(rows["together"][2]) == pytest.approx(sum(float(row[2]) for n, row in rows.items() if n != "together"), abs=0.3)


def test_a_fixed_number_of_steps_has_no_minutes(tmp_path):
    path = tmp_path / "copper.cif"
    write(path, bulk("Cu", cubic=True))
    settings = quick_settings(path)
    train = replace(settings.train, fit=replace(settings.train.fit, steps=250))
    plan = replace(settings, teacher="ase.calculators.emt:EMT", temperatures=(300.0,), train=train)
    rows = {str(row[0]): row[2] for row in dry_run(plan).tables[-1].rows}
    assert rows["train, 250 steps"] is None and rows["refit, 875 steps"] is None
    known = [minutes for name, minutes in rows.items() if minutes is not None and "together" not in name]
    assert rows["together, without fits of a fixed number of steps"] == pytest.approx(sum(known), abs=0.3)


def test_a_fluoride_moves_its_fluorine_unless_an_alkali_ion_is_there(tmp_path):
    for kind, symbols, mobile in (("fluorite", "CaF2", "F"), ("rocksalt", "LiF", "Li")):
        path = tmp_path / f"{kind}.cif"
        write(path, bulk(symbols, kind, a=5.4, cubic=True))
        assert resolved(quick_settings(path), read_structure(path)).mobile == mobile


def test_the_plan_states_the_rule_that_was_applied(tmp_path):
    path = tmp_path / "lgps.cif"
    path.write_text(cif(conductor("Li10GeP2S12")))
    settings = replace(quick_settings(path), teacher="ase.calculators.lj:LennardJones", cutoff=4.2)
    plan = dry_run(settings)
    assert "closer than 0.65 (cations)" in plan.notes[0] and "lowered from 0.8" in plan.notes[0]
    assert not any("0.8 (cations)" in text for text in [*plan.notes, *(table.caption for table in plan.tables)])


def test_only_heavy_enough_hydrogen_lengthens_the_step(tmp_path):
    """1 fs needs hydrogen of 2.5 u; with 2 u production takes the usual step."""
    path = tmp_path / "water.xyz"
    molecule("H2O").write(path)
    settings = replace(quick_settings(path), matter="molecule")
    steps = {mass: resolved(replace(settings, heavy_h=mass), read_structure(path)).production.time_step_fs for mass in (2.0, 3.0)}
    assert steps == {2.0: None, 3.0: 1.0}

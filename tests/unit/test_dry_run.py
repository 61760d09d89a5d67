"""The plan of the main job before it runs."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from conductors import cif, conductor
from mdistill.errors import BadInput, MdistillNotice
from mdistill.hardening.settings import HardSettings
from mdistill.io.structures import from_atoms, read_structure, to_system
from mdistill.labelling.hard_settings import Cp2kSettings
from mdistill.labelling.remembered import load_engine
from mdistill.teachers.ase import from_calculator
from mdistill.workflows.distill_settings import DistillSettings, quick_settings, resolved
from mdistill.workflows.dry_run import dry_run, seconds_per_call
from mdistill.workflows.hard_stages import in_unit_cell
from mdistill.workflows.stage_log import hardening_calls

PLAYER = Path(__file__).parents[1] / "fake_cp2k.py"
pytestmark = pytest.mark.filterwarnings("ignore:cp2k. Cu alone")


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


def hard_copper(tmp_path, repeats: int = 1, **more):
    """Copper with hard labels by CP2K (played): 4 atoms in the file, 108 in the supercell."""
    path = tmp_path / "copper.cif"
    write(path, bulk("Cu", cubic=True) * (repeats, repeats, repeats))
    cp2k = Cp2kSettings(command=f"{shlex.quote(sys.executable)} {PLAYER} good", kpoints=(8, 8, 8))
    return replace(quick_settings(path), teacher="ase.calculators.emt:EMT", temperatures=(300.0,), cutoff=5.0, **{
        "hard": "cp2k", "hard_budget": 10, "cp2k": cp2k} | more)  # fmt: skip


def tables(plan) -> tuple[dict[str, object], dict[str, list[object]]]:
    found = {table.name: {str(row[0]): row for row in table.rows} for table in plan.tables}
    return {name: row[1] for name, row in found["hard-plan"].items()}, found["costs"]


def test_the_plan_tells_cell_number_and_cost_of_hard_labels(tmp_path):
    hard, costs = tables(dry_run(hard_copper(tmp_path)))
    assert (hard["labels"], hard["of these left for the test"], hard["atoms"], hard["cell"]) == (
        10,
        2,
        108,
        "supercell of the run",
    )
    assert hard["lengths (Å)"] == "10.83, 10.83, 10.83" and "8×8×8 k-points" in hard["engine"]
    assert not any(name.startswith(("relax the unit", "structures of hard")) for name in costs)
    small = hard_copper(tmp_path, harden=HardSettings(unit_cell=True, most_atoms=50))
    hard, costs = tables(dry_run(small))
    assert (hard["atoms"], hard["cell"], hard["lengths (Å)"]) == (4, "cell of the file", "3.61, 3.61, 3.61")
    row = costs["relax the unit cell (at most), label its MD"]
    assert row[1] == small.prepare.relax_steps * small.prepare.orderings + 10
    assert float(row[2]) < 0.2 * row[1] / costs["label"][1] * float(costs["label"][2]) + 0.05, "a cell 27 times smaller"
    later = hard_copper(tmp_path, hard_rounds=3)
    assert tables(dry_run(later))[1]["structures of hard labels"][1] == 6 == hardening_calls(later), "of 4, 3 and 3"


def test_the_plan_tells_of_a_metal_for_cp2k(tmp_path):
    with pytest.warns(MdistillNotice, match="Cu alone: a metal"):
        dry_run(hard_copper(tmp_path))


def test_a_unit_cell_that_is_the_supercell_is_not_prepared_again(tmp_path):
    same = hard_copper(tmp_path, 3, harden=HardSettings(unit_cell=True))
    with pytest.warns(MdistillNotice, match="the cell of the file, 108 atoms, is that of the run"):
        hard, costs = tables(dry_run(same))
    assert hard["atoms"] == 108 and costs["structures of hard labels"][1] == 10
    crystal = read_structure(same.structure)
    engine = load_engine("cp2k", cp2k=same.cp2k)
    assert not in_unit_cell(resolved(same, crystal), engine, crystal)
    assert in_unit_cell(resolved(hard_copper(tmp_path, harden=HardSettings(unit_cell=True)), crystal), engine,
                        read_structure(tmp_path / "copper.cif"))  # fmt: skip


def test_what_the_stage_of_hard_labels_would_refuse_is_refused_by_the_plan(tmp_path):
    with pytest.raises(BadInput, match=r"108 atoms(?s:.*)--harden.unit-cell for the 4 atoms(?s:.*)--harden.most-atoms 108"):
        dry_run(hard_copper(tmp_path, harden=HardSettings(most_atoms=50)))
    with pytest.raises(BadInput, match="--harden.most-atoms 4"):
        dry_run(hard_copper(tmp_path, harden=HardSettings(unit_cell=True, most_atoms=3)))
    with pytest.raises(BadInput, match="pyscf, for a crystal"):
        dry_run(hard_copper(tmp_path, hard="pyscf"))
    with pytest.raises(BadInput, match="no-cp2k"):
        dry_run(hard_copper(tmp_path, cp2k=Cp2kSettings(command="no-cp2k")))


def test_labels_made_elsewhere_are_counted_not_calculated(tmp_path):
    images = [bulk("Cu", cubic=True) for _ in range(4)]
    for k, atoms in enumerate(images):
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
    write(tmp_path / "dft.extxyz", images)
    hard, costs = tables(dry_run(hard_copper(tmp_path, hard=str(tmp_path / "dft.extxyz"))))
    assert (hard["labels"], hard["of these left for the test"]) == (4, 1) and "atoms" not in hard
    assert costs["structures of hard labels"][1] == 4 and any(name.startswith("fits on 4 labels") for name in costs)


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


def test_the_teachers_time_is_that_of_calls_which_it_computes():
    """A calculator of ASE keeps its last answer: asked for the same structure again, it computes nothing."""
    computed = []

    class Counted(EMT):
        def calculate(self, *given, **more):
            computed.append(1)
            super().calculate(*given, **more)

    assert seconds_per_call(from_calculator(Counted()), to_system(from_atoms(bulk("Cu", cubic=True))), calls=3) > 0.0
    assert len(computed) == 4

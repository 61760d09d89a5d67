"""Labels made elsewhere: formats, names, units, missing labels, duplicates, held-out frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write

from mdistill import cli
from mdistill.closed_form.linear_fit import fit_closed_form
from mdistill.data.store import LabelStore
from mdistill.errors import BadInput, MdistillNotice
from mdistill.labelling.import_labels import MOST_BLOCKS, import_labels, labels_table
from mdistill.labelling.settings import LabelFileSettings
from mdistill.runs.results import read_results
from mdistill.training.potential import train_potential
from mdistill.training.settings import ClosedFormSettings, FitSettings, TrainSettings
from mdistill.units import BOHR, GPA, HARTREE

OUTCAR = """\
 vasp.6.3.0
 POTCAR:    PAW_PBE Li 01Jan2000
 POTCAR:    PAW_PBE Li 01Jan2000
   ions per type =               2
   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=      8
   NIONS =      2
   k-points in reciprocal lattice and weights: x
   0.00000000   0.00000000   0.00000000       1.000

   ISPIN  =      1    spin polarized calculation?
   LSORBIT =      F    spin-orbit coupling
   LNONCOLLINEAR =      F non collinear calculations
--------------------------------------- Iteration      1(   1)  ---------------------------------------
  FORCE on cell =-STRESS in cart. coord.  units (eV):
  Direction    XX          YY          ZZ          XY          YZ          ZX
  --------------------------------------------------------------------------------------
  Total       1.00000     2.00000     3.00000     0.10000     0.20000     0.30000
  in kB      10.00000    20.00000    30.00000     1.00000     2.00000     3.00000
  external pressure =       20.00 kB  Pullay stress =        0.00 kB

 VOLUME and BASIS-vectors are now :
 -----------------------------------------------------------------------------
  energy-cutoff  :      300.00
  volume of cell :       64.00
      direct lattice vectors                 reciprocal lattice vectors
     4.000000000  0.000000000  0.000000000     0.250000000  0.000000000  0.000000000
     0.000000000  4.000000000  0.000000000     0.000000000  0.250000000  0.000000000
     0.000000000  0.000000000  4.000000000     0.000000000  0.000000000  0.250000000

  length of vectors
     4.000000000  4.000000000  4.000000000     0.250000000  0.250000000  0.250000000

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.100000      0.000000      0.000000
      2.00000      2.00000      2.10000        -0.100000      0.000000      0.000000
 -----------------------------------------------------------------------------------
    total drift:                                0.000000      0.000000      0.000000


--------------------------------------------------------------------------------------------------------



  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =        -3.80000000 eV

  energy  without entropy=       -3.79000000  energy(sigma->0) =       -3.79500000
"""
VASPRUN = """\
<modeling>
 <kpoints><varray name="kpointlist"><v>0 0 0</v></varray><varray name="weights"><v>1.0</v></varray></kpoints>
 <atominfo><array name="atoms"><set><rc><c>Li</c><c>1</c></rc><rc><c>Li</c><c>1</c></rc></set></array></atominfo>
 <structure name="initialpos"><crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>
  <varray name="positions"><v>0 0 0</v><v>0.5 0.5 0.525</v></varray></structure>
 <calculation>
  <scstep><energy><i name="e_fr_energy">-3.8</i><i name="e_0_energy">-3.795</i></energy></scstep>
  <structure><crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray></crystal>
   <varray name="positions"><v>0 0 0</v><v>0.5 0.5 0.525</v></varray></structure>
  <varray name="forces"><v>0.1 0 0</v><v>-0.1 0 0</v></varray>
  <varray name="stress"><v>10 1 3</v><v>1 20 2</v><v>3 2 30</v></varray>
  <energy><i name="e_fr_energy">-3.8</i><i name="e_0_energy">-3.795</i></energy>
 </calculation>
</modeling>
"""


@pytest.fixture(scope="module")
def images():
    """Sheared and rattled copper and gold–copper cells with EMT's labels."""
    draw, made = np.random.default_rng(1), []
    for k in range(40):
        atoms = bulk("Cu", cubic=True)
        if k >= 20:
            atoms.symbols[0] = "Au"
        atoms.set_cell(atoms.cell[:] @ (np.eye(3) + 0.02 * draw.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += 0.25 * draw.normal(size=(4, 3))
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(), "stress": atoms.get_stress()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        made.append(atoms)
    return made


def scaled(images, *, energy: float = 1.0, forces: float = 1.0, stress: float = 1.0):
    copies = []
    for atoms in images:
        copy, labels = atoms.copy(), atoms.calc.results
        factors = {"energy": energy, "forces": forces, "stress": stress}
        copy.calc = SinglePointCalculator(copy, **{name: factors[name] * labels[name] for name in factors})
        copies.append(copy)
    return copies


def assert_same(frames, images):
    assert len(frames) == len(images)
    for frame, atoms in zip(frames, images, strict=True):
        assert np.allclose(frame.system.positions, atoms.positions, atol=1e-6)
        assert frame.system.numbers.tolist() == atoms.numbers.tolist()
        assert np.isclose(float(frame.target.energy[0]), atoms.calc.results["energy"], atol=1e-6)
        assert np.allclose(frame.target.forces, atoms.calc.results["forces"], atol=1e-6)
        full = atoms.calc.results["stress"][[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
        assert np.allclose(frame.target.stress[0], full, atol=1e-8)


def arrays_of(images):
    volumes = [atoms.get_volume() for atoms in images]
    stress = [atoms.get_stress(voigt=False) for atoms in images]
    return {
        "R": np.stack([a.positions for a in images]), "z": np.stack([a.numbers for a in images]),
        "lattice": np.stack([a.cell[:] for a in images]), "E": np.array([a.get_potential_energy() for a in images]),
        "F": np.stack([a.get_forces() for a in images]), "virial": np.stack([-v * s for v, s in zip(volumes, stress, strict=True)]),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["data.extxyz", "data.extxyz.gz", "data.traj", "data.db", "data.npz", "ref.extxyz"])
def test_every_format_gives_the_same_labels(name, images, tmp_path):
    """In the .npz the virial is −V·stress; in ref.extxyz the labels are called REF_… and the stress has nine numbers."""
    path = tmp_path / name
    if name == "data.npz":
        np.savez_compressed(path, **arrays_of(images))
    elif name == "data.db":
        with connect(path) as database:
            for atoms in images:
                database.write(atoms)
    elif name == "ref.extxyz":
        renamed = []
        for atoms in images:
            copy = atoms.copy()
            copy.info |= {"REF_energy": atoms.get_potential_energy(), "REF_stress": atoms.get_stress(voigt=False).ravel()}
            copy.arrays["REF_forces"] = atoms.get_forces()
            copy.calc = SinglePointCalculator(copy, energy=0.0)
            renamed.append(copy)
        write(path, renamed)
    else:
        write(path, images)
    imported = import_labels(path)
    assert_same(imported.frames, images)
    assert {frame.source for frame in imported.frames} == {"Cu4", "AuCu3"}


@pytest.mark.parametrize(("name", "text"), [("OUTCAR", OUTCAR), ("vasprun.xml", VASPRUN)])
def test_vasp_gives_the_free_energy_and_a_stress_with_ases_sign(name, text, tmp_path):
    """Pressures of 10, 20, 30 kB are stresses of −1, −2, −3 GPa; forces belong to the free energy, 5 meV below E(σ→0)."""
    (tmp_path / name).write_text(text)
    with pytest.warns(MdistillNotice, match="free_energy, to which forces belong; energy differs by up to 0.005 eV"):
        frame = import_labels(tmp_path / name, hold_out=False).frames[0]
    assert frame.system.positions[1].tolist() == pytest.approx([2.0, 2.0, 2.1]) and frame.system.pbc.all()
    assert float(frame.target.energy[0]) == pytest.approx(-3.8) and frame.target.forces[0].tolist() == [0.1, 0.0, 0.0]
    expected = -GPA * np.array([[1.0, 0.1, 0.3], [0.1, 2.0, 0.2], [0.3, 0.2, 3.0]])
    assert np.allclose(frame.target.stress[0], expected, atol=1e-6)
    settings = LabelFileSettings(energy_key="energy")
    assert float(import_labels(tmp_path / name, settings, hold_out=False).frames[0].target.energy[0]) == pytest.approx(-3.795)


def test_the_last_blocks_of_every_group_are_held_out(images, tmp_path):
    write(tmp_path / "data.extxyz", images)
    imported = import_labels(tmp_path / "data.extxyz")
    held = [k for k, frame in enumerate(imported.frames) if frame.block in imported.held_blocks]
    assert held == [17, 18, 19, 37, 38, 39]
    assert len({frame.block for frame in imported.frames}) == 2 * MOST_BLOCKS
    assert labels_table(imported).tables[0].rows == [["Cu4", 20, 20, 20, 20, 3], ["AuCu3", 20, 20, 20, 20, 3]]


def test_groups_and_test_files_are_held_out_whole(images, tmp_path):
    for atoms, name in zip(images, ["bulk"] * 10 + ["hot"] * 10 + ["alloy"] * 20, strict=True):
        atoms.info["config_type"] = name
    write(tmp_path / "data.extxyz", images)
    for atoms in images:
        del atoms.info["config_type"]
    chosen = import_labels(tmp_path / "data.extxyz", LabelFileSettings(hold_out_groups=("hot",)))
    assert {f.source for f in chosen.frames if f.block in chosen.held_blocks} == {"hot"}
    by_size = import_labels(tmp_path / "data.extxyz", LabelFileSettings(hold_out="groups", held_out=0.2))
    assert {f.source for f in by_size.frames if f.block in by_size.held_blocks} == {"bulk"}
    with pytest.raises(BadInput, match="no other group holds all elements of alloy"):
        import_labels(tmp_path / "data.extxyz", LabelFileSettings(hold_out_groups=("alloy",)))
    with pytest.raises(BadInput, match="cold"):
        import_labels(tmp_path / "data.extxyz", LabelFileSettings(hold_out_groups=("cold",)))
    write(tmp_path / "train.extxyz", images[:30])
    write(tmp_path / "test.extxyz", images[25:])
    with pytest.warns(MdistillNotice, match="5 of 45 structures occur more than once"):
        tested = import_labels(tmp_path / "train.extxyz", test=[tmp_path / "test.extxyz"])
    assert [f.block in tested.held_blocks for f in tested.frames] == [True] * 15 + [False] * 25


@pytest.mark.parametrize(
    ("factors", "flags"),
    [
        ({"energy": 1 / HARTREE}, {"energy_unit": "Ha"}),
        ({"forces": BOHR / HARTREE}, {"forces_unit": "Ha/Bohr"}),
        ({"stress": -1.0}, {"stress_sign": "compression"}),
        ({"stress": 1 / GPA}, {"stress_unit": "GPa"}),
        ({"stress": -10 / GPA}, {"stress_sign": "compression", "stress_unit": "kB"}),
        ({"forces": -1.0}, {}),
    ],
)
def test_a_slip_of_unit_or_sign_is_refused_with_the_flag_that_mends_it(factors, flags, images, tmp_path):
    path = tmp_path / "data.extxyz"
    write(path, scaled(images, **factors))
    with pytest.raises(BadInput) as refused:
        import_labels(path)
    for name, value in flags.items():
        assert f"--{name.replace('_', '-')} {value}" in refused.value.fix
    if flags:
        assert_same(import_labels(path, LabelFileSettings(**flags)).frames, images)
    else:
        assert "gradients" in refused.value.problem


def test_a_wrong_unit_that_was_given_is_a_notice(images, tmp_path):
    write(tmp_path / "data.extxyz", images)
    with pytest.warns(MdistillNotice, match="the stress is .* times what the forces imply"):
        import_labels(tmp_path / "data.extxyz", LabelFileSettings(stress_unit="kB"))


def test_successive_frames_tell_hartree_with_hartree_per_bohr(tmp_path):
    """Both units differ, so the ratio is 1.89: work along a path tells, a fitted pair potential would not."""
    draw, images = np.random.default_rng(2), []
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    for _ in range(30):
        atoms.positions += 0.02 * draw.normal(size=(4, 3))
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy() / HARTREE, "forces": atoms.get_forces() * BOHR / HARTREE}
        copy = atoms.copy()
        copy.calc = SinglePointCalculator(copy, **labels)
        images.append(copy)
    write(tmp_path / "path.extxyz", images)
    with pytest.raises(BadInput, match="--energy-unit Ha --forces-unit Ha/Bohr"):
        import_labels(tmp_path / "path.extxyz")


def test_all_electron_energies_tell_their_unit(tmp_path):
    """A water molecule has −76.4 Ha: −2079 eV, −47,950 kcal/mol."""
    molecule = replace_labels([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], [8, 1, 1], -76.4 * HARTREE)
    write(tmp_path / "ev.xyz", molecule, format="extxyz")
    assert len(import_labels(tmp_path / "ev.xyz", hold_out=False).frames) == 1
    for unit, factor in {"Ha": 1.0, "kcal/mol": 627.509}.items():
        write(tmp_path / "other.xyz", replace_labels(molecule.positions, [8, 1, 1], -76.4 * factor), format="extxyz")
        with pytest.raises(BadInput, match=f"--energy-unit {unit}"):
            import_labels(tmp_path / "other.xyz", hold_out=False)


def replace_labels(positions, numbers, energy):
    from ase import Atoms

    atoms = Atoms(numbers, positions=positions)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((3, 3)))
    return atoms


def test_stress_and_virial_that_disagree_are_refused(images, tmp_path):
    atoms = images[0].copy()
    atoms.calc = images[0].calc
    atoms.info["virial"] = atoms.get_volume() * atoms.get_stress(voigt=False)
    write(tmp_path / "data.extxyz", atoms)
    with pytest.raises(BadInput, match="not −virial/volume"):
        import_labels(tmp_path / "data.extxyz")


def test_names_that_are_absent_are_refused_with_those_in_the_file(images, tmp_path):
    write(tmp_path / "data.extxyz", images)
    with pytest.raises(BadInput, match="no structure has 'dft'") as refused:
        import_labels(tmp_path / "data.extxyz", LabelFileSettings(energy_key="dft"))
    assert "energy, forces, stress" in refused.value.allowed
    bare = [atoms.copy() for atoms in images]
    write(tmp_path / "bare.extxyz", bare)
    with pytest.raises(BadInput, match="neither energies nor forces"):
        import_labels(tmp_path / "bare.extxyz")
    for name, content in {"absent.extxyz": None, "empty.npz": b"", "broken.npz": b"PK", "text.dat": b"hello"}.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput):
            import_labels(tmp_path / name)
    write(tmp_path / "whole.extxyz.gz", images, format="extxyz")
    (tmp_path / "cut.extxyz.gz").write_bytes((tmp_path / "whole.extxyz.gz").read_bytes()[:900])
    with pytest.raises(BadInput, match="cut.extxyz.gz"):
        import_labels(tmp_path / "cut.extxyz.gz")
    np.savez(tmp_path / "objects.npz", positions=np.array([None]))
    with pytest.raises(BadInput, match="pickled"):
        import_labels(tmp_path / "objects.npz")


@pytest.fixture
def partial(images, tmp_path):
    """A file in which the frames miss energy, forces and stress in turn; one energy is not a number; a lone atom."""
    copies = []
    for k, atoms in enumerate(images):
        copy, lacking = atoms.copy(), ("energy", "forces", "stress", "")[k % 4]
        copy.calc = SinglePointCalculator(copy, **{n: v for n, v in atoms.calc.results.items() if n != lacking})
        if k == 3:
            copy.calc.results["energy"] = np.nan
        copies.append(copy)
    lone = bulk("Cu")
    lone.calc = SinglePointCalculator(lone, energy=1.0, forces=np.zeros((1, 3)))
    write(tmp_path / "partial.extxyz", [*copies, lone])
    return tmp_path / "partial.extxyz"


def test_labels_may_be_missing(partial, images, tmp_path):
    with pytest.warns(MdistillNotice) as told:
        imported = import_labels(partial)
    texts = [str(one.message) for one in told]
    assert any("1 single atoms" in text for text in texts) and any("1 labels are not finite" in text for text in texts)
    assert labels_table(imported).tables[0].rows == [["Cu4", 20, 14, 15, 15, 3], ["AuCu3", 20, 15, 15, 15, 3]]
    LabelStore(tmp_path / "store").append(imported.frames)
    stored = LabelStore(tmp_path / "store").read()
    assert [frame.missing for frame in stored] == [frame.missing for frame in imported.frames]
    settings = TrainSettings(size="tiny", cutoff=3.5, channels=3, radial=4, hidden=4, fit=FitSettings(steps=4))
    result = train_potential(stored, settings, tmp_path / "fit", held_blocks=imported.held_blocks)
    assert result.held_out_frames == 6 and np.isfinite(result.accuracy.force["all"].mean_absolute.value)
    closed = ClosedFormSettings(second=2, third=1, iterations=1)
    linear, _, _ = fit_closed_form(stored, settings, tmp_path / "linear", closed_form=closed, held_blocks=imported.held_blocks)
    assert np.isfinite(linear.accuracy.energy["all"].mean_absolute.value)
    changed = [replace(f, target=replace(f.target, energy=f.target.energy * torch.nan)) for f in stored]
    with pytest.raises(BadInput, match="not finite"):
        train_potential(changed, settings, tmp_path / "fit2", held_blocks=imported.held_blocks)


@pytest.mark.parametrize("lacking", ["energy", "forces"])
def test_training_on_one_kind_of_label_alone(lacking, images, tmp_path):
    imported = import_labels(write_without(lacking, images, tmp_path))
    settings = TrainSettings(size="tiny", cutoff=3.5, channels=3, radial=4, hidden=4, fit=FitSettings(steps=4))
    result = train_potential(imported.frames, settings, tmp_path / "fit", held_blocks=imported.held_blocks)
    assert bool(result.accuracy.energy) == (lacking == "forces") and bool(result.accuracy.force) == (lacking == "energy")


def write_without(lacking, images, tmp_path):
    copies = []
    for atoms in images:
        copies.append(atoms.copy())
        copies[-1].calc = SinglePointCalculator(atoms, **{n: v for n, v in atoms.calc.results.items() if n != lacking})
    write(tmp_path / "part.extxyz", copies)
    return tmp_path / "part.extxyz"


def test_the_command_trains_on_a_file(images, tmp_path, capsys):
    write(tmp_path / "data.extxyz", images)
    small = ["--fit.steps", "3", "--cutoff", "3.5", "--channels", "3", "--radial", "4", "--hidden", "4"]
    command = ["train", "potential", str(tmp_path / "data.extxyz"), "--out", str(tmp_path / "out"), *small]
    assert cli.run(command) == 0
    shown = capsys.readouterr().out
    assert "AuCu3" in shown and "held out" in shown
    results = read_results(tmp_path / "out")
    assert results.values["held_out_frames"].value == 6 and results.values["train_frames"].value == 34
    assert cli.run([*command[:2], "--config", str(tmp_path / "out" / "run.toml"), "--out", str(tmp_path / "again")]) == 0
    assert read_results(tmp_path / "again").values["held_out_frames"].value == 6
    assert cli.run([*command[:2], str(tmp_path), "--energy-key", "E", "--out", str(tmp_path / "no")]) == 2
    assert "label folder" in capsys.readouterr().err


def test_charges_and_unpaired_electrons_of_a_file_are_kept(tmp_path):
    atoms = [bulk("NaCl", "rocksalt", a=5.6) for _ in range(4)]
    for k, one in enumerate(atoms):
        one.info |= {"charge": k - 1, "unpaired": (k - 1) % 2} if k else {}
        one.calc = SinglePointCalculator(one, energy=-1.0, forces=np.zeros((2, 3)))
    write(tmp_path / "ions.extxyz", atoms)
    frames = import_labels(tmp_path / "ions.extxyz", LabelFileSettings()).frames
    states = [(int(f.system.charge), int(f.system.unpaired)) for f in frames if f.system.charge is not None]
    assert sorted(states) == [(0, 0), (1, 1), (2, 0)] and len(frames) == 4

"""Training of direct forces: turned copies are the same physics, the fit resumes, molecules come back as they were labelled."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mdistill import cli
from mdistill.derivatives import Conservative, Direct, hessian
from mdistill.direct import generate as direct_generate
from mdistill.direct.conformers import ORIGINS, _rigid, conformers
from mdistill.direct.generate import generate, label_molecule, read_smiles, xtb
from mdistill.direct.molecules import Molecule, molecules, parsed
from mdistill.direct.objective import CURVED, EVERY, antisymmetric_part, jacobian_product, product_error, turned_item
from mdistill.direct.settings import DirectSettings, MoleculeSettings
from mdistill.direct.shards import MANIFEST, read_folders, read_shards, shard
from mdistill.direct.tables import direct_results
from mdistill.direct.train import prepare_direct, train_direct
from mdistill.errors import BadInput, MdistillError
from mdistill.graph import build_graph, edge_vectors, make_system
from mdistill.nets.model_files import load_model
from mdistill.runs.results import read_results
from mdistill.training.labels import items_of
from mdistill.training.losses import root_mean_square
from mdistill.training.settings import FitSettings
from mdistill.training.stride_objective import random_turn
from mdistill.types import LabelledFrame, Prediction
from systems import CLOSEST, SYSTEMS, MorseNet, morse_frames, tiny_edge_transformer

TINY = {"cutoff": 5.0, "width": 32, "layers": 1, "heads": 2, "radial": 6, "float64": True}


def fit(steps: int, **more) -> FitSettings:
    return FitSettings(**({"steps": steps, "batch_size": 4, "learning_rate": 5e-3, "warmup": 5, "ema": 0.9, "clip": 1.0} | more))


def test_copies_are_turned_as_a_whole() -> None:
    item = items_of(morse_frames(1), 5.0, torch.float64)[0]
    turn = random_turn(np.random.default_rng(3))
    other = turned_item(item, turn)
    assert torch.allclose(edge_vectors(other.graph), edge_vectors(item.graph) @ turn, atol=1e-12)
    assert torch.allclose(other.frame.target.forces.norm(dim=1), item.frame.target.forces.norm(dim=1), atol=1e-12)
    again = build_graph(other.graph.system, 5.0)
    assert torch.equal(again.sender, other.graph.sender) and torch.equal(again.shift, other.graph.shift)


def test_the_antisymmetric_part_is_that_of_the_force_jacobian() -> None:
    """The mean over random directions against ‖J − Jᵀ‖² / 3N of the whole Jacobian."""
    net, box = tiny_edge_transformer(1), SYSTEMS["molecule"]()
    graph, random = build_graph(box, net.cutoff), np.random.default_rng(0)
    jacobian = hessian(Direct(net), box).flatten(1)
    expected = float((jacobian - jacobian.T).square().sum()) / len(jacobian)

    def draw() -> torch.Tensor:
        return antisymmetric_part(net, graph, *(torch.from_numpy(random.normal(size=(box.n_atoms, 3))) for _ in range(2)))

    drawn = [float(draw().detach()) for _ in range(60)]
    assert abs(np.mean(drawn) - expected) < 4.0 * np.std(drawn) / len(drawn) ** 0.5
    assert draw().requires_grad


def test_training_learns_resumes_and_tunes(tmp_path: Path) -> None:
    frames = morse_frames(16)
    settings = DirectSettings(**TINY, antisymmetry_weight=1e-3, energy_gradient_weight=0.05, fit=fit(24))
    result = train_direct(frames, settings, tmp_path / "whole")
    first, last = result.history[0]["validation"]["forces"], result.history[-1]["validation"]["forces"]
    assert last < first and result.steps == 24

    class After:
        count = 0

        def pending(self) -> bool:
            self.count += 1
            return self.count > 9

        def raise_if_pending(self) -> None:
            if self.pending():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_direct(frames, settings, tmp_path / "cut", stop=After())  # type: ignore[arg-type]
    resumed = train_direct(frames, settings, tmp_path / "cut")
    assert resumed.sha256 == result.sha256
    tuned = train_direct(frames, replace(settings, fit=fit(2, seed=1)), tmp_path / "tuned", start_from=result.path)
    assert tuned.parameters == result.parameters and tuned.sha256 != result.sha256
    closest = load_model(tuned.path).net.closest
    assert float(closest.min()) >= 0.5 * CLOSEST


def test_the_list_has_ions_and_radicals_and_every_molecule_once() -> None:
    listed = molecules()
    assert len({m.smiles for m in listed}) == len(listed) > 4000
    assert {m.charge for m in listed} == {-1, 0, 1} and {m.unpaired for m in listed} == {0, 1}
    assert parsed("C[NH3+]").charge == 1 and parsed("[CH3]").unpaired == 1 and parsed("C(C") is None


def test_linear_molecules_keep_both_bends() -> None:
    pytest.importorskip("rdkit")
    for smiles, modes in (("C#C", 7), ("O=C=O", 4), ("O", 3)):
        _, (single,) = conformers(Molecule(smiles=smiles), 1, 0)
        assert single.positions.size - _rigid(single.positions) == modes


def dihedral(place: np.ndarray, corners: tuple[int, int, int, int]) -> float:
    a, b, c, d = (place[k] for k in corners)
    first, second = np.cross(b - a, c - b), np.cross(c - b, d - c)
    return float(np.degrees(np.arctan2(np.linalg.norm(c - b) * (b - a) @ second, first @ second)))


def test_torsions_turn_one_bond_to_the_grid_and_keep_the_rest() -> None:
    pytest.importorskip("rdkit")
    numbers, made = conformers(parsed("FCCF"), 48, 3, torsions=2)
    origins = [one.origin for one in made]
    assert {name: origins.count(name) for name in ORIGINS} == dict(zip(ORIGINS, (8, 24, 8, 8, 0), strict=True))
    angles = {name: [dihedral(one.positions, (0, 1, 2, 3)) for one in made if one.origin == name] for name in ORIGINS}
    minima = np.array([60.0, 180.0, 300.0])
    off = [min(abs((angle - place + 180) % 360 - 180) for place in minima) for angle in angles["torsion"]]
    assert max(off) > 25.0  # at or near a barrier, which conformers and displacements do not reach
    on_grid = [abs((angle + 15.0) % 30.0 - 15.0) for angle in angles["relaxed torsion"]]
    assert np.median(on_grid) < 2.0
    energies = [
        [xtb(numbers, one.positions, charge=0, unpaired=0)[0] for one in made if one.origin == name] for name in ORIGINS[2:4]
    ]
    assert np.mean(energies[1]) < np.mean(energies[0])
    stiff = [one.origin for one in conformers(parsed("c1ccccc1"), 12, 3, torsions=2)[1]]
    assert stiff.count("displaced") == 10 and "torsion" not in stiff


@pytest.mark.parametrize("count", [1, 4, 8])
def test_few_structures_of_a_molecule_have_their_share_of_turned_bonds(count: int) -> None:
    """Over many molecules each of the six structures of a conformer is as frequent as another."""
    pytest.importorskip("rdkit")
    whole = 6 * (count // 6)
    made = [conformers(parsed("FCCF"), count, seed, torsions=2, dynamics=1)[1] for seed in range(120 // (count - whole))]
    assert {len(one) for one in made} == {count}
    rest = [single.origin for one in made for single in one[whole:]]
    for name, share in zip(ORIGINS, (1 / 6, 1 / 3, 1 / 6, 1 / 6, 1 / 6), strict=True):
        assert abs(rest.count(name) / 120 - share) < 4.0 * (share * (1.0 - share) / 120) ** 0.5
    plain = [one.origin for one in conformers(parsed("FCCF"), count, 0)[1]]
    assert plain == (["embedded"] + 5 * ["displaced"] + ["embedded", "displaced"])[:count]


def test_shards_hold_what_xtb_says_and_are_not_made_twice(tmp_path: Path) -> None:
    listed = [parsed(text) for text in ("O", "[CH3]", "[OH-]", "[He]")]
    settings = MoleculeSettings(structures=12, per_molecule=3, dynamics=0)
    totals = generate(settings, tmp_path, seed=1, workers=1, listed=listed)
    frames = read_shards(tmp_path)
    assert totals["structures"] == len(frames) == 10 and totals["molecules"] == 4
    assert totals["embedded"] == 4 and totals["displaced"] == 6
    for frame in frames[::3]:
        charge, unpaired = int(frame.system.charge), int(frame.system.unpaired)
        energy, forces = xtb(frame.system.numbers.numpy(), frame.system.positions.numpy(), charge=charge, unpaired=unpaired)
        assert float(frame.target.energy) == pytest.approx(energy, abs=1e-6)
        assert np.abs(frame.target.forces.numpy() - forces).max() < 1e-5
    assert {(int(f.system.charge), int(f.system.unpaired)) for f in frames} == {(0, 0), (0, 1), (-1, 0)}
    before = shard(tmp_path, 0).stat().st_mtime_ns
    generate(settings, tmp_path, seed=1, workers=1, listed=listed)
    assert shard(tmp_path, 0).stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="other settings"):
        generate(settings, tmp_path, seed=2, workers=1, listed=listed)
    shard(tmp_path, 0).write_bytes(b"PK")
    with pytest.raises(BadInput, match="is damaged"):
        read_shards(tmp_path)


def test_a_folder_that_is_complete_keeps_its_counts(tmp_path: Path) -> None:
    settings = MoleculeSettings(structures=4, per_molecule=2)
    listed = [parsed("O"), parsed("[OH-]")]
    first = generate(settings, tmp_path, seed=1, workers=1, listed=listed)
    again = generate(settings, tmp_path, seed=1, workers=1, listed=listed)
    assert again["structures"] == first["structures"] == 4 and again["molecules"] == 2 and "structures_per_s" not in again


def test_a_folder_from_before_bonds_were_turned_goes_on_without_torsions(tmp_path: Path) -> None:
    listed, settings = [parsed("CO"), parsed("O")], MoleculeSettings(structures=6, per_molecule=3, dynamics=0)
    unturned = replace(settings, torsions=0)
    generate(unturned, tmp_path, seed=1, workers=1, listed=listed)
    first, manifest = read_shards(tmp_path), json.loads((tmp_path / MANIFEST).read_text())
    for name in ("torsions", "dynamics", "dynamics_fs"):
        del manifest["settings"][name]
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    moved = replace(unturned, dynamics=1)
    for asked, seed, flag in ((settings, 1, "--torsions 0"), (unturned, 2, "--seed 1"), (moved, 1, "--dynamics 0")):
        with pytest.raises(BadInput, match=f"other settings.*\n.*\n.*{flag},"):
            generate(asked, tmp_path, seed=seed, workers=1, listed=listed)
    with pytest.raises(BadInput, match="another list"):
        generate(unturned, tmp_path, seed=1, workers=1, listed=[parsed("N"), parsed("O")])
    shard(tmp_path, 0).unlink()
    assert generate(unturned, tmp_path, seed=1, workers=1, listed=listed)["structures"] == 6
    for frame, before in zip(read_shards(tmp_path), first, strict=True):
        assert torch.equal(frame.system.positions, before.system.positions)


def test_a_molecule_of_two_folders_is_one_block(tmp_path: Path) -> None:
    listed = [parsed(text) for text in ("O", "[OH-]", "[CH3]")]
    for seed in (1, 2):
        settings = MoleculeSettings(structures=6, per_molecule=2)
        generate(settings, tmp_path / f"{seed}", seed=seed, workers=1, listed=listed)
    orders = [json.loads((tmp_path / f"{seed}" / MANIFEST).read_text())["molecules"] for seed in (1, 2)]
    frames = read_folders([tmp_path / "1", tmp_path / "2"])
    assert orders[0] != orders[1] and len(frames) == 12
    kinds = {(f.block, tuple(f.system.numbers.tolist()), int(f.system.charge)) for f in frames}
    assert len(kinds) == len({f.block for f in frames}) == 3


def killed(task: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_ends_the_job_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_generate, "label_molecule", killed)
    with pytest.raises(MdistillError, match="fewer --workers"):
        generate(MoleculeSettings(structures=2, per_molecule=2), tmp_path, seed=1, workers=1, listed=[parsed("O")])


def test_curvature_labels_are_left_out() -> None:
    """Without their weight no term has them."""
    ready = prepare_direct(morse_frames(8, probes=1), DirectSettings(**TINY, fit=fit(2)))
    assert all(item.frame.products is None for item in ready.items)
    assert "curvature" not in {term.quantity for term in ready.objective.inner.terms}


def test_curvature_labels_turn_with_their_structure() -> None:
    item, teacher = items_of(morse_frames(1, probes=2), 5.0, torch.float64)[0], Conservative(MorseNet())
    other = turned_item(item, random_turn(np.random.default_rng(3)))
    expected = teacher.curvature(build_graph(other.graph.system, teacher.cutoff), other.frame.probes)
    assert torch.allclose(other.frame.products, expected, atol=1e-9)
    assert not torch.allclose(other.frame.products, item.frame.products, atol=1e-2)


def test_a_product_of_the_jacobian_is_a_column_of_it() -> None:
    net, box = tiny_edge_transformer(1), SYSTEMS["molecule"]()
    rows = hessian(Direct(net), box).flatten(1)
    direction = torch.zeros(box.n_atoms, 3, dtype=torch.float64)
    direction[1, 2] = 1.0
    column = jacobian_product(net, build_graph(box, net.cutoff), direction)
    assert torch.allclose(column.flatten(), -rows[:, 5], atol=2e-4 * float(rows.abs().max())) and column.requires_grad


def test_rows_of_a_teacher_enter_the_loss_and_lower_their_error() -> None:
    """Every fourth step has the term; its gradient points to products that are closer to the teacher's."""
    settings = DirectSettings(**TINY, copies=1, curvature_weight=1.0, fit=fit(2))
    ready, plain = (
        prepare_direct(morse_frames(8, probes=1), replace(settings, curvature_weight=weight)) for weight in (1.0, 0.0)
    )
    net, batch = ready.net.requires_grad_(True), ready.items[:4]
    with_rows, without = (one.objective(net, batch, CURVED)[0] for one in (ready, plain))
    assert "curvature" not in ready.objective(net, batch, CURVED + 1)[1]
    errors = []
    for _ in range(8):
        off = product_error(net, batch, np.random.default_rng(0))
        norm = off.norm(dim=1).mean()
        errors.append(float(norm.detach()))
        slopes = torch.autograd.grad(norm, list(net.parameters()), allow_unused=True)
        size = sum(float(slope.square().sum()) for slope in slopes if slope is not None) ** 0.5
        with torch.no_grad():
            for weight, slope in zip(net.parameters(), slopes, strict=True):
                weight.sub_(0.05 / size * slope) if slope is not None else None
    scale = root_mean_square(torch.cat([item.frame.products.flatten(0, 1) for item in ready.items]))
    assert float(with_rows - without) == pytest.approx(EVERY * errors[0] / scale, rel=0.1)  # copies are turned
    assert errors[-1] < 0.98 * errors[0]
    with pytest.raises(BadInput, match="no label has curvature products"):
        prepare_direct(morse_frames(8), settings)


def test_another_zero_of_energy_is_no_error_of_a_tuned_model(tmp_path: Path) -> None:
    """As after pre-training on xTB and tuning on DFT: energies of elements differ by hundreds of eV."""
    frames, settings = morse_frames(16), DirectSettings(**TINY, fit=fit(20))
    first = train_direct(frames, settings, tmp_path / "first")
    shifted = [replace(f, target=replace(f.target, energy=f.target.energy - 700.0 * f.system.n_atoms)) for f in frames]
    tuned = train_direct(shifted, replace(settings, fit=fit(2)), tmp_path / "tuned", start_from=first.path)
    error, before = (result.accuracy.energy["all"].mean_absolute.value for result in (tuned, first))
    assert error < before + 0.05


def test_a_lone_atom_has_no_jacobian_to_judge(tmp_path: Path) -> None:
    alone = make_system(np.zeros((1, 3)), np.array([18]), np.zeros((3, 3)), [False] * 3)
    frames = [LabelledFrame(system=alone, target=Prediction(energy=torch.zeros(1), forces=torch.zeros(1, 3)))] * 3
    frames += morse_frames(16)
    result = train_direct(frames, DirectSettings(**TINY, fit=fit(1)), tmp_path)
    found = direct_results(result, load_model(result.path), frames)
    assert np.isfinite(found.values["antisymmetry"].value)


def test_forces_of_xtb_are_minus_its_gradient() -> None:
    _, numbers, rows, failures, _ = label_molecule((0, parsed("CO"), MoleculeSettings(per_molecule=2, torsions=0, dynamics=0), 5))
    structure, (_, forces) = rows[1]
    moved = [structure.positions.copy(), structure.positions.copy()]
    moved[0][2, 1] += 1e-3
    moved[1][2, 1] -= 1e-3
    up, down = (xtb(numbers, one, charge=0, unpaired=0)[0] for one in moved)
    assert forces[2, 1] == pytest.approx((down - up) / 2e-3, abs=2e-3) and not +failures


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.smi").write_text("# three\nC water-free\n[NH4+]\n[CH3]\n")
    made = ["molecules", "--smiles", f"{tmp_path}/list.smi", "--structures", "12", "--per-molecule", "4", "--workers", "1"]
    assert cli.run([*made, "--out", f"{tmp_path}/m"]) == 0
    assert len(json.loads((tmp_path / "m" / MANIFEST).read_text())["molecules"]) == 3
    size = ["--width", "32", "--layers", "1", "--radial", "6", "--fit.steps", "5", "--fit.batch-size", "2", "--held-out", "0.3"]
    assert cli.run(["train", "direct", f"{tmp_path}/m", "--out", f"{tmp_path}/d", "--states", *size]) == 0
    out = capsys.readouterr().out
    assert "copies" in out and "student.mdistill" in out and "equivariance error" in out
    results = read_results(tmp_path / "d")
    assert [rung.kind for rung in results.rungs] == ["direct"] and set(results.rungs[0].errors) == {"force MAE", "E_eq", "λ"}
    assert 0.0 < results.values["antisymmetry"].value <= 1.0 and "heats up" in (tmp_path / "d" / "report.html").read_text()
    assert cli.run(["train", "potential", f"{tmp_path}/list.smi", "--net", "edge_transformer", "--out", f"{tmp_path}/p"]) == 2
    assert "mdistill train direct" in capsys.readouterr().err
    (tmp_path / "bad.smi").write_text("C(C\n")
    assert cli.run(["molecules", "--smiles", f"{tmp_path}/bad.smi", "--out", f"{tmp_path}/b"]) == 2
    assert "no SMILES" in capsys.readouterr().err
    with pytest.raises(BadInput, match="cannot be read"):
        read_smiles(tmp_path / "absent.smi")

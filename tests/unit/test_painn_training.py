"""Training of message-passing students: conservative and direct learn a toy teacher; the command line, and what uses its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from laws import DOUBLE
from mdistill import cli
from mdistill.data.split import split_blocks
from mdistill.data.store import LabelStore
from mdistill.derivatives import Conservative, Direct, energy_forces
from mdistill.errors import BadInput
from mdistill.export.ase import calculator
from mdistill.graph import build_graph
from mdistill.nets.model_files import load_model, read_metadata
from mdistill.runs.results import read_results
from mdistill.teachers.models import load
from mdistill.training.contact_dimers import contact_dimers
from mdistill.training.potential import loss_terms, train_potential
from mdistill.training.settings import FitSettings, PainnSize, TrainSettings
from systems import morse_frames, tiny_painn

SMALL = TrainSettings(
    net="painn",
    painn=PainnSize(width=12, layers=2, radial=8),
    held_out=0.2,
    fit=FitSettings(steps=400, batch_size=6, warmup=10, learning_rate=4e-3),
)
DIRECT = replace(SMALL, painn=replace(SMALL.painn, direct=True), energy_gradient_weight=0.3)


@pytest.fixture(scope="module")
def frames():
    return morse_frames(48, probes=2)


@pytest.fixture(scope="module")
def trained(frames, tmp_path_factory):
    return train_potential(frames, SMALL, tmp_path_factory.mktemp("train"))


def test_it_learns_the_teacher(trained, frames):
    force = trained.accuracy.force["all"]
    assert force.mean_absolute.value < 0.15 * force.scale
    assert trained.accuracy.energy["all"].mean_absolute.value < 0.01
    first, last = trained.history[0]["validation"], trained.history[-1]["validation"]
    assert all(last[name] < 0.5 * first[name] for name in ("forces", "energy"))
    assert last["stress"] < 0.85 * first["stress"]
    assert trained.curvature_error < 0.8
    potential = load_model(trained.path)
    assert isinstance(potential, Conservative)
    assert float(potential.net.closest.min()) < 3.0 and float(potential.net.scale) > 0.0
    assert contact_dimers(potential.net, DOUBLE) is not None
    assert read_metadata(trained.path)["kind"] == "painn"


@pytest.fixture(scope="module")
def direct(frames, tmp_path_factory):
    return train_potential(frames, DIRECT, tmp_path_factory.mktemp("direct"))


@pytest.mark.slow
def test_a_direct_head_learns_the_teacher(direct, frames):
    force = direct.accuracy.force["all"]
    assert force.mean_absolute.value < 0.25 * force.scale
    assert direct.accuracy.energy["all"].mean_absolute.value < 0.01
    assert direct.accuracy.stress == {}
    first, last = direct.history[0]["validation"], direct.history[-1]["validation"]
    assert all(last[name] < 0.5 * first[name] for name in ("forces", "energy", "energy gradient"))
    assert isinstance(load_model(direct.path), Direct)


@pytest.mark.slow
def test_the_energy_gradient_term_ties_the_energy_to_the_forces(direct, frames, tmp_path):
    """−∇E of the energy head against the labelled forces, on held-out frames: worse where the term is left out."""
    free = train_potential(frames, replace(DIRECT, energy_gradient_weight=0.0), tmp_path)
    held_out = split_blocks(frames, held_out=0.2)[1]

    def error(path):
        net = load_model(path).net
        wrong = [energy_forces(net, build_graph(f.system, net.cutoff)) - f.target.forces for f in held_out]
        return float(torch.cat(wrong).abs().mean())

    assert error(direct.path) < 0.8 * error(free.path)
    assert "energy gradient" in direct.history[-1]["validation"] and "energy gradient" not in free.history[-1]["validation"]


def test_only_direct_students_have_the_energy_gradient_term(frames):
    def quantities(settings):
        return [term.quantity for term in loss_terms(frames, settings)]

    assert "energy gradient" in quantities(DIRECT)
    assert "energy gradient" not in quantities(SMALL)
    assert "energy gradient" not in quantities(replace(DIRECT, net="moment"))


def test_the_same_seed_gives_the_same_bits_and_a_refit_goes_on(frames, tmp_path):
    short = replace(SMALL, fit=replace(SMALL.fit, steps=6))
    first, again = (train_potential(frames, short, tmp_path / name) for name in ("a", "b"))
    assert first.sha256 == again.sha256
    still = replace(SMALL, fit=replace(SMALL.fit, steps=1, learning_rate=1e-8))
    refit = train_potential(frames, still, tmp_path / "c", start_from=first.path)
    graph = build_graph(frames[0].system, 5.0)
    assert torch.allclose(load_model(refit.path)(graph).forces, load_model(first.path)(graph).forces, atol=1e-4)
    for other in (DIRECT, replace(SMALL, net="moment"), replace(SMALL, painn=PainnSize(width=8))):
        with pytest.raises(BadInput, match="was trained with"):
            train_potential(frames, other, tmp_path / "d", start_from=first.path)


def test_rates_suit_the_network_unless_set():
    bare = FitSettings()
    assert (bare.suited("moment").learning_rate, bare.suited("moment").weight_decay) == (5e-3, 0.3)
    assert bare.suited("painn").learning_rate < 5e-3
    assert FitSettings(learning_rate=0.1).suited("painn").learning_rate == 0.1
    assert FitSettings(weight_decay=0.0).suited("painn").weight_decay == 0.0


@pytest.mark.parametrize("wrong", [{"net": "schnet"}, {"energy_gradient_weight": -1.0}])
def test_bad_settings_are_refused(wrong):
    with pytest.raises(BadInput):
        TrainSettings(**wrong)
    with pytest.raises(BadInput, match="layers"):
        PainnSize(layers=0)


def test_from_labels_to_dynamics_on_the_command_line(frames, tmp_path, capsys):
    LabelStore(tmp_path / "labels").append(frames[:24], key="all")
    size = ["--net", "painn", "--painn.width", "8", "--painn.layers", "2", "--fit.steps", "20", "--fit.batch-size", "4"]
    out = str(tmp_path / "student")
    assert cli.run(["train", "potential", str(tmp_path / "labels"), *size, "--held-out", "0.3", "--out", out]) == 0
    results = read_results(Path(out))
    assert {"errors_force", "errors_energy", "errors_stress"} <= {table.name for table in results.tables}
    assert results.settings["painn"]["width"] == 8
    assert "Learning curve" in (Path(out) / "report.html").read_text(encoding="utf-8")
    assert cli.run(["info", f"{out}/student.mdistill"]) == 0
    assert "painn" in capsys.readouterr().out
    structure = tmp_path / "box.extxyz"
    potential = load(out)
    atoms = _atoms(frames[0].system, calculator(potential))
    atoms.write(structure)
    expected = potential(build_graph(frames[0].system, potential.cutoff))
    assert np.allclose(atoms.get_forces(), expected.forces.numpy(), atol=1e-9)
    assert np.allclose(atoms.get_stress(voigt=False), expected.stress[0].numpy(), atol=1e-9)
    dynamics = [
        "--potential",
        out,
        "--ensemble",
        "nve",
        "--temperature-K",
        "50",
        "--time-ps",
        "0.02",
        "--out",
        str(tmp_path / "md"),
    ]
    assert cli.run(["simulate", str(structure), *dynamics]) == 0
    assert json.loads((tmp_path / "md" / "results.json").read_text(encoding="utf-8"))["command"] == "simulate"
    assert cli.run(["train", "potential", str(tmp_path / "labels"), "--net", "painn", "--fit", "closed-form", "--out", out]) == 2


def _atoms(system, calc):
    from ase import Atoms

    return Atoms(
        numbers=system.numbers.numpy(), positions=system.positions.numpy(), cell=system.cell[0].numpy(), pbc=True, calculator=calc
    )


def test_a_tiny_net_is_not_by_chance_the_teacher(frames):
    """What the learning tests start from: a random network is far from the teacher."""
    wrong = [Conservative(tiny_painn())(build_graph(f.system, 5.0)).forces - f.target.forces for f in frames[:4]]
    assert float(torch.cat(wrong).abs().mean()) > 0.15 * float(torch.cat([f.target.forces for f in frames[:4]]).abs().mean())

"""What a network of direct forces lacks is told: charges that it does not know, an energy for NVE, another size."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.io import write

from mdistill import cli
from mdistill.derivatives import Conservative, Direct
from mdistill.direct.safe import SafeForces
from mdistill.direct.settings import DirectSettings
from mdistill.direct.train import prepare_direct
from mdistill.graph import build_graph
from mdistill.labelling.segments import make_segments
from mdistill.labelling.settings import SegmentSettings
from mdistill.nets.model_files import save_model
from systems import SYSTEMS, morse_frames, tiny_edge_transformer

ONE, NONE = torch.tensor([1]), torch.tensor([0])


@pytest.mark.parametrize(
    ("states", "charge", "unpaired", "told"),
    [(False, None, None, False), (False, NONE, -ONE, False), (False, ONE, None, True), (False, -ONE, None, True),
     (False, None, ONE, True), (True, ONE, NONE, False)],
)  # fmt: skip
def test_dynamics_tells_of_a_state_that_changes_nothing(states, charge, unpaired, told) -> None:
    """A number of unpaired electrons of −1 is an unknown one."""
    net = tiny_edge_transformer(1, states=states)
    system = replace(SYSTEMS["dimer"](), charge=charge, unpaired=unpaired)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        SafeForces(Direct(net))(build_graph(system, net.cutoff))
    assert any("trained without --states" in str(one.message) for one in heard) == told


@pytest.mark.parametrize(("ions", "states", "told"), [(0, False, False), (4, False, True), (4, True, False)])
def test_training_tells_of_labels_that_the_network_cannot_tell_apart(ions: int, states: bool, told: bool) -> None:
    even = [f for f in morse_frames(16) if int(f.system.numbers.sum()) % 2 == 0]
    frames = [replace(f, system=replace(f.system, charge=2 * ONE * (k < ions), unpaired=NONE)) for k, f in enumerate(even)]
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        prepare_direct(frames, DirectSettings(width=16, layers=1, radial=4, states=states))
    assert any("without --states" in str(one.message) for one in heard) == told


def test_odd_electrons_are_refused_by_simulate_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As stated with spin 0, and of an ion whose charge is missing."""
    calm = tiny_edge_transformer(1, states=True)
    calm.scale.fill_(1e-3)
    save_model(tmp_path / "student.mdistill", calm)
    command = ["simulate", f"{tmp_path}/a.xyz", "--potential", f"{tmp_path}/student.mdistill", "--time-ps", "0.002"]
    command += ["--time-step-fs", "1"]
    for k, (state, problem) in enumerate((({"charge": 0, "unpaired": 0}, "and 0 unpaired"), ({}, "no number of unpaired ones"))):
        atoms = Atoms(numbers=[3, 16], positions=[[0.0, 0, 0], [0, 0, 2.4]])
        atoms.info |= state
        write(tmp_path / "a.xyz", atoms, format="extxyz")
        assert cli.run([*command, "--out", f"{tmp_path}/{k}"]) == 2
        said = capsys.readouterr().err
        assert problem in said and "in the comment line" in said


def test_nve_segments_of_direct_forces_are_warned_of(tmp_path: Path) -> None:
    """Before the first of them (at no temperature there is none); not with the gradient of an energy."""
    net = tiny_edge_transformer(1)
    for potential, told in ((Direct(net), True), (Conservative(net), False)):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            make_segments([SYSTEMS["dimer"]()], potential, SegmentSettings(), tmp_path / str(told))
        assert any("NVE dynamics heats up" in str(one.message) for one in heard) == told


def test_a_size_that_fine_tuning_does_not_use_is_told(tmp_path: Path) -> None:
    net = tiny_edge_transformer(1)
    save_model(tmp_path / "student.mdistill", net)
    own = {"width": net.settings.width, "layers": net.settings.layers}
    for given, told in (({}, []), (own, []), (own | {"width": 48, "states": True}, ["--width 48 has", "--states True has"])):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            prepare_direct(morse_frames(8), DirectSettings(**given), start_from=tmp_path / "student.mdistill")
        said = [str(one.message) for one in heard if "no effect" in str(one.message)]
        assert len(said) == len(told) and all(text.startswith(part) for text, part in zip(said, told, strict=True))

"""Trajectory files: what goes in comes out, other programs read them, blocks are all or nothing."""

from __future__ import annotations

import multiprocessing
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mdistill.errors import BadInput, MdistillError
from mdistill.graph import make_system
from mdistill.io.hdf5 import check_hdf5
from mdistill.io.trajectories import TrajectoryWriter, read_hdf5, read_series, truncate_after
from mdistill.types import Prediction, State

SUFFIXES = ["h5", "extxyz"]


def frame(step: int, *, stress: bool = True, atoms: int = 5) -> State:
    rng = np.random.default_rng(abs(step))
    system = make_system(
        rng.normal(size=(atoms, 3)) * 30, np.arange(atoms) % 80 + 3, np.diag([8.0, 9.0, 10.0 + 0.01 * step]) + 0.1, [True] * 3
    )
    sigma = torch.from_numpy(rng.normal(size=(3, 3)))
    return State(
        system=system,
        momenta=torch.from_numpy(rng.normal(size=(atoms, 3))),
        masses=torch.linspace(1.0, 9.0, atoms, dtype=torch.float64),
        time=2.0 * step,
        prediction=Prediction(
            energy=torch.tensor([-3.0 - step], dtype=torch.float64),
            forces=torch.from_numpy(rng.normal(size=(atoms, 3))),
            stress=(sigma + sigma.T).unsqueeze(0) if stress else None,
        ),
    )


def write(path: Path, steps: list[int], **options: bool) -> Path:
    writer = TrajectoryWriter(path, {"model": "student", "model_sha256": "abc", "arch": ""})
    for step in steps:
        writer.add(step, frame(step, **options))
    writer.flush()
    return path


@pytest.mark.parametrize("stress", [True, False])
def test_hdf5_round_trip(stress: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "t é.h5", [0, 10, 20], stress=stress)
    write(path, [30], stress=stress)
    found = read_hdf5(path)
    states = [frame(step, stress=stress) for step in (0, 10, 20, 30)]
    assert torch.equal(found.positions, torch.stack([s.system.positions for s in states]))
    assert torch.equal(found.cell, torch.stack([s.system.cell[0] for s in states]))
    assert torch.equal(found.numbers, states[0].system.numbers)
    assert found.times.tolist() == [0.0, 20.0, 40.0, 60.0]
    torch.testing.assert_close(found.momenta, torch.stack([s.momenta for s in states]), rtol=1e-14, atol=0)
    assert read_series(path, "step").tolist() == [0, 10, 20, 30]
    assert read_series(path, "potential_energy").tolist() == [-3.0, -13.0, -23.0, -33.0]
    if stress:
        assert torch.equal(read_series(path, "stress"), torch.stack([s.prediction.stress[0] for s in states]))
    else:
        with pytest.raises(BadInput, match="stress"):
            read_series(path, "stress")


def test_hdf5_has_h5md_names(tmp_path: Path) -> None:
    path = write(tmp_path / "t.h5", [0, 5])
    with h5py.File(path) as file:
        assert file["h5md"].attrs["version"].tolist() == [1, 1]
        box = file["particles/all/box"]
        assert list(box.attrs["boundary"]) == ["periodic"] * 3 and box["edges/value"].shape == (2, 3, 3)
        assert file["particles/all/position/value"].attrs["unit"] == "Angstrom"
        assert file["observables/potential_energy/step"][:].tolist() == [0, 5]
        assert file["provenance"].attrs["model_sha256"] == "abc"


@pytest.mark.parametrize("words", [["perhodic", "periodic", "none"], ["periodic"], ["none"] * 4])
def test_a_boundary_of_other_words_is_damage(tmp_path: Path, words: list[str]) -> None:
    path = write(tmp_path / "t.h5", [0, 5])
    with h5py.File(path, "a") as file:
        file["particles/all/box"].attrs["boundary"] = words
    with pytest.raises(BadInput, match="periodic or none"):
        read_hdf5(path)


def test_extxyz_is_what_ase_reads(tmp_path: Path) -> None:
    path = write(tmp_path / "t.extxyz", [0, 10])
    write(path, [20])
    frames = ase.io.read(path, ":")
    assert [atoms.info["step"] for atoms in frames] == [0, 10, 20]
    for atoms, state in zip(frames, [frame(step) for step in (0, 10, 20)], strict=True):
        np.testing.assert_allclose(atoms.positions, state.system.positions, atol=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), state.prediction.forces, atol=1e-7)
        np.testing.assert_allclose(atoms.get_stress(voigt=False), state.prediction.stress[0], atol=1e-7)
        assert atoms.get_potential_energy() == float(state.prediction.energy)
        assert atoms.info["time_fs"] == state.time and atoms.info["model"] == "student" and atoms.info["model_sha256"] == "abc"
        atoms.set_masses(state.masses.numpy())
        kinetic = 103.642697 * float((state.momenta.square().sum(1) / (2 * state.masses)).sum())
        assert atoms.get_kinetic_energy() == pytest.approx(kinetic, rel=1e-5)


def test_a_flipped_bit_of_a_trajectory_is_refused_or_harmless(tmp_path: Path, trust: Callable[..., None]) -> None:
    path = write(tmp_path / "t.h5", [0, 10, 20])
    whole, before, refused = path.read_bytes(), content(path), 0
    for place in np.random.default_rng(3).integers(0, 8 * len(whole), 60).tolist():
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            check_hdf5(path)
            after = content(path)
        except BadInput:
            refused += 1
        else:
            assert after == before, f"bit {place} changed what is read"
    assert refused > 10
    trust("T39", "HDF5 trajectory with a flipped bit: other numbers read without a word (of 60)", 0, "0")


@pytest.mark.planted
def test_without_checksums_a_flipped_bit_is_read_as_a_number(tmp_path: Path, trust: Callable[..., None]) -> None:
    path = write(tmp_path / "t.h5", [0, 10, 20])
    with h5py.File(path, "r+") as file:
        plain = file["particles/all/position/value"][:]
        del file["particles/all/position/value"]
        file["particles/all/position/value"] = plain
    raw = bytearray(path.read_bytes())
    raw[raw.index(plain.tobytes()) + 7] ^= 1
    path.write_bytes(raw)
    check_hdf5(path)
    assert not np.array_equal(read_hdf5(path).positions.numpy(), plain)
    trust("T39", "HDF5 without checksums: a flipped bit of a position is read", "seen", "seen", planted=True)


def content(path: Path) -> dict[str, object]:
    found = read_hdf5(path)
    parts = {"positions": found.positions, "momenta": found.momenta, "cell": found.cell, "times": found.times, "n": found.numbers}
    return {name: part.tolist() for name, part in parts.items()} | {"step": read_series(path, "step").tolist()}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_removed_or_changed_while_it_is_written_is_noticed(suffix: str, tmp_path: Path) -> None:
    for harm, message in (
        (Path.unlink, "was removed while"),
        (lambda p: p.write_bytes(p.read_bytes() + b"x"), "was changed while"),
    ):
        path = tmp_path / f"t.{suffix}"
        path.unlink(missing_ok=True)
        writer = TrajectoryWriter(path)
        writer.add(0, frame(0))
        writer.flush()
        harm(path)
        writer.add(10, frame(10))
        with pytest.raises(BadInput, match=rf"(?s)t\.{suffix}: .*{message}.*fix:"):
            writer.flush()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncation_keeps_earlier_frames(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"t.{suffix}", [0, 10, 20, 30])
    assert truncate_after(path, 40) == 4
    assert truncate_after(path, 19) == 2
    write(path, [20])
    steps = read_series(path, "step").tolist() if suffix == "h5" else [a.info["step"] for a in ase.io.read(path, ":")]
    assert steps == [0, 10, 20]
    assert truncate_after(path, -1) == 0
    assert truncate_after(tmp_path / "none", 5) == 0


def test_only_single_structures_with_predictions_are_accepted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prediction"):
        TrajectoryWriter(tmp_path / "t.h5").add(0, replace(frame(0), prediction=None))


def _write_within(path: Path, limit: int, steps: list[int], pipe: object) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write(path, steps, atoms=200)
        pipe.send("written")
    except MdistillError as error:
        pipe.send(str(error))
    except BaseException as error:
        pipe.send(f"wrong error {error!r}")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_old_frames(suffix: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    """T36: a file-size limit at 20 offsets stands in for the full disk."""
    path = write(tmp_path / f"t.{suffix}", [0, 10], atoms=200)
    before, size = path.read_bytes(), path.stat().st_size
    context, failed = multiprocessing.get_context("fork"), 0
    for limit in np.linspace(0, 2.0 * size, 20).astype(int).tolist():
        ours, theirs = context.Pipe()
        child = context.Process(target=_write_within, args=(path, limit, [20, 30], theirs))
        child.start()
        said = ours.recv()
        child.join()
        if said == "written":
            write(path, [])
            path.write_bytes(before)
            continue
        failed += 1
        assert str(path) in said and "resumes" in said, said
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert failed >= 8
    write(path, [20], atoms=200)
    trust("T36", f"{suffix} writer, disk full at {failed} offsets: old frames intact and path named", failed, f"{failed}")


@pytest.mark.slow
def test_a_full_disk_in_hdf5_ends_a_process_without_a_signal(tmp_path: Path, trust: Callable[..., None]) -> None:
    """HDF5 crashes when its library closes after a failed write."""
    limits = (3_000, 20_000, 60_000, 200_000)
    program = (
        "import resource, sys, test_trajectories as t; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)\n"
        "try: t.write(t.Path(sys.argv[1]), list(range(0, 400, 10)), atoms=200)\n"
        "except t.MdistillError as error: sys.exit(error.exit_status)"
    )
    for limit in limits:
        command = [sys.executable, "-c", program, str(tmp_path / "t.h5"), str(limit)]
        assert subprocess.run(command, cwd=Path(__file__).parent, check=False).returncode == 1, limit
    trust("T36", f"HDF5 on a disk full at {len(limits)} offsets: processes that died of a signal", 0, "0")


def damaged(path: Path, change: Callable[[h5py.File], None]) -> Path:
    write(path, [0, 10])
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def _replace(file: h5py.File, name: str, value: np.ndarray) -> None:
    del file[name]
    file[name] = value


POSITION = "particles/all/position/value"
DAMAGE: dict[str, Callable[[h5py.File], None]] = {
    "no positions": lambda f: f.__delitem__(POSITION),
    "frames missing": lambda f: f[POSITION].resize(1, axis=0),
    "NaN": lambda f: f[POSITION].__setitem__((0, 0, 0), np.nan),
    "other atoms": lambda f: _replace(f, "particles/all/species", np.arange(4)),
    "text": lambda f: _replace(f, "particles/all/species", np.array([b"Li"] * 5)),
    "flat": lambda f: _replace(f, POSITION, np.zeros(7)),
    "scalar": lambda f: _replace(f, POSITION, np.float64(3.0)),
    "group": lambda f: (f.__delitem__(POSITION), f.create_group(POSITION)),
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_damaged_files_are_refused(kind: str, tmp_path: Path) -> None:
    path = damaged(tmp_path / "t.h5", DAMAGE[kind])
    with pytest.raises(BadInput, match=r"t\.h5"):
        read_hdf5(path)


def test_a_claim_beyond_memory_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.h5", [0])
    with h5py.File(path, "r+") as file:
        file[POSITION].resize(10**12, axis=0)
    with pytest.raises(BadInput, match="more than the file can hold"):
        read_hdf5(path)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_files_raise_only_our_errors(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "t.h5", [0, 10])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        read_hdf5(path)
    except BadInput:
        return

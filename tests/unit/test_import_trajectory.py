"""Reading trajectories of other programs: unwrapping, joining, and what is refused (T24, T30)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io import read, write

from mdistill.errors import BadInput
from mdistill.io.import_trajectory import read_trajectory
from mdistill.io.trajectories import check_masses
from mdistill.io.unwrap import check_joint, unwrap
from mdistill.types import Trajectory
from walks import crystal, write_extxyz, write_xdatcar

FRAMES = 40


def moving(seed: int = 0) -> Trajectory:
    """Vibrating crystal in which the Li walk steadily through the cell, in a slightly fluctuating volume."""
    still = crystal(seed, frames=FRAMES, vibration=0.1, volume_noise=0.01)
    positions = still.positions.clone()
    positions[:, :27] += torch.arange(FRAMES).view(-1, 1, 1) * torch.tensor([0.7, -0.5, 0.2], dtype=torch.float64)
    return replace(still, positions=positions)


def part(trajectory: Trajectory, frames: slice) -> Trajectory:
    return replace(
        trajectory, positions=trajectory.positions[frames], cell=trajectory.cell[frames], times=trajectory.times[frames]
    )


def moves(trajectory: Trajectory) -> np.ndarray:
    """Scaled displacements since the first frame: what unwrapping must restore."""
    scaled = trajectory.positions @ torch.linalg.inv(trajectory.cell)
    return (scaled - scaled[:1]).numpy()


def check_restored(found: Trajectory, original: Trajectory) -> float:
    difference = float(np.abs(moves(found) - moves(original)).max())
    assert difference < 1e-6
    return difference


@pytest.mark.parametrize("name", ["a.extxyz", "XDATCAR", "XDATCAR.gz"])
def test_wrapped_input_is_unwrapped_and_said_so(name: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    original = moving()
    path = tmp_path / name
    writer = write_xdatcar(path, original, variable=True) if "XDATCAR" in name else write_extxyz(path, original, wrapped=True)
    found = read_trajectory(writer, time_step_fs=100.0)
    assert any("wrapped" in note for note in found.notes)
    assert found.trajectory.times.tolist() == original.times.tolist()
    difference = check_restored(found.trajectory, original)
    trust("T24", f"wrapped {name}: scaled displacements after unwrapping", difference, "< 1e-6")
    trust("T30", f"wrapped coordinates in {name}", "unwrapped, with a note", "unwrapped, with a note")


def test_unwrapped_input_is_left_alone(tmp_path: Path) -> None:
    original = moving()
    found = read_trajectory(write_extxyz(tmp_path / "a.extxyz", original))
    assert not any("wrapped" in note for note in found.notes)
    assert float((found.trajectory.positions - original.positions).abs().max()) < 1e-6


@pytest.mark.planted
def test_a_lost_crossing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    original = moving()
    path = write_extxyz(tmp_path / "a.extxyz", original, wrapped=True)
    monkeypatch.setattr("mdistill.io.import_trajectory.unwrap", lambda positions, cells, numbers, path: (positions, []))
    found = read_trajectory(path)
    with pytest.raises(AssertionError):
        check_restored(found.trajectory, original)
    trust("T24", "planted: wrapped coordinates taken as they are", "noticed", "noticed", planted=True)


def test_runs_are_joined(tmp_path: Path) -> None:
    original = moving()
    first = write_xdatcar(tmp_path / "XDATCAR_1", part(original, slice(0, 15)), variable=True)
    second = write_xdatcar(tmp_path / "XDATCAR_2.gz", part(original, slice(15, 40)), variable=True)
    found = read_trajectory([first, second], time_step_fs=100.0)
    assert "2 runs joined end to end" in found.notes
    check_restored(found.trajectory, original)


def test_a_frame_stored_twice_at_the_joint_is_kept_once(tmp_path: Path) -> None:
    original = moving()
    first = write_extxyz(tmp_path / "1.extxyz", part(original, slice(0, 21)), wrapped=True)
    second = write_extxyz(tmp_path / "2.extxyz", part(original, slice(20, 40)), wrapped=True, steps=False)
    found = read_trajectory([first, second])
    assert any("repeats the last" in note for note in found.notes)
    check_restored(found.trajectory, original)


def test_stride_ase_trajectory_and_our_hdf5(tmp_path: Path) -> None:
    original = moving()
    write(tmp_path / "a.traj", read(write_extxyz(tmp_path / "a.extxyz", original), ":"))
    found = read_trajectory(tmp_path / "a.traj", stride=3)
    assert found.trajectory.times.tolist() == original.times[::3].tolist()
    check_restored(found.trajectory, part(original, slice(0, None, 3)))


def test_lammps_dump_with_types(tmp_path: Path) -> None:
    original = replace(moving(), cell=12.0 * torch.eye(3, dtype=torch.float64).expand(FRAMES, 3, 3))
    lines = []
    for k in range(FRAMES):
        lines += ["ITEM: TIMESTEP", str(100 * k), "ITEM: NUMBER OF ATOMS", "35", "ITEM: BOX BOUNDS pp pp pp", *["0.0 12.0"] * 3]
        lines.append("ITEM: ATOMS id type x y z")
        places = (original.positions[k] % 12.0).tolist()
        rows = [f"{i + 1} {1 if i < 27 else 2} {x:.8f} {y:.8f} {z:.8f}" for i, (x, y, z) in enumerate(places)]
        lines += rows if k % 2 else rows[::-1]
    (tmp_path / "dump.lammpstrj").write_text("\n".join(lines) + "\n")
    found = read_trajectory(tmp_path / "dump.lammpstrj", time_step_fs=100.0, elements=("Li", "S"))
    assert sorted(set(found.trajectory.numbers.tolist())) == [3, 16]
    check_restored(found.trajectory, original)


def frames_of(tmp_path: Path) -> list[Atoms]:
    return list(read(write_extxyz(tmp_path / "good.extxyz", moving()), ":"))


def missing_frame(frames: list[Atoms]) -> None:
    del frames[12]


def fewer_atoms(frames: list[Atoms]) -> None:
    del frames[7][3]


def other_order(frames: list[Atoms]) -> None:
    frames[9:] = [a[[*range(26), 27, 26, *range(28, 35)]] for a in frames[9:]]


def swapped_atoms(frames: list[Atoms]) -> None:
    frames[20:] = [a[[5, 1, 2, 3, 4, 0, *range(6, 35)]] for a in frames[20:]]


def not_a_number(frames: list[Atoms]) -> None:
    frames[5].positions[4] = np.nan


def nanometres(frames: list[Atoms]) -> None:
    for atoms in frames:
        atoms.set_cell(atoms.cell * 0.1, scale_atoms=True)


def bohr(frames: list[Atoms]) -> None:
    for atoms in frames:
        atoms.set_cell(atoms.cell * 1.8897, scale_atoms=True)


def too_sparse(frames: list[Atoms]) -> None:
    rng = np.random.default_rng(0)
    for atoms in frames[1:]:
        atoms.positions[:27] = rng.random((27, 3)) @ atoms.cell
        atoms.wrap()


def runaway_atom(frames: list[Atoms]) -> None:
    frames[11].positions[3, 1] += 1e6


def zero_edge(frames: list[Atoms]) -> None:
    cell = frames[8].cell.array.copy()
    cell[1] = 0.0
    frames[8].set_cell(cell)
    frames[8].pbc = True


def flat_cell(frames: list[Atoms]) -> None:
    cell = frames[8].cell.array.copy()
    cell[2] = cell[0] + cell[1]
    frames[8].set_cell(cell)


def doubled_cell(frames: list[Atoms]) -> None:
    for atoms in frames[20:]:
        cell = atoms.cell.array.copy()
        cell[0] *= 2.0
        atoms.set_cell(cell)


def massless(frames: list[Atoms]) -> None:
    for atoms in frames:
        masses = atoms.get_masses()
        masses[5] = 0.0
        atoms.set_masses(masses)


def picoseconds(frames: list[Atoms]) -> None:
    for k, atoms in enumerate(frames):
        atoms.info["time_fs"] = 0.1 * k


BAD: dict[str, tuple[Callable[[list[Atoms]], None], str]] = {
    "missing frame": (missing_frame, r"step 550 \(frame 12\) is followed by 650, elsewhere they are 50 apart"),
    "changing number of atoms": (fewer_atoms, "frame 8 has 34 atoms, frame 1 has 35"),
    "changing order of the elements": (other_order, "order of the atoms changes at frame 10: atom 27 is S, Li in frame 1"),
    "two Li exchange places": (swapped_atoms, "order of the atoms changes at frame 21: 2 Li atoms"),
    "NaN": (not_a_number, "NaN or infinity in frame 6"),
    "lengths in nm": (nanometres, "nm|apart"),
    "lengths in Bohr": (bohr, "Bohr"),
    "frames too sparse to unwrap": (too_sparse, "moves exceed 0.4 of the cell"),
    "times in ps": (picoseconds, "not ps"),
    "an atom jumps by 10⁶ Å": (runaway_atom, r"atom 4 moves by 1e\+06 Å from frame 11 to 12"),
    "zero edge of the cell": (zero_edge, "periodic along b, but this edge of the cell is 0 Å in frame 9"),
    "flat cell": (flat_cell, "the cell of frame 9 has no volume"),
    "cell twice as large": (doubled_cell, "the cell changes from .* Å³ at frame 21"),
    "mass of zero": (massless, r"atom 6 has a mass of 0 u \(1 such atoms\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_trajectories(name: str, tmp_path: Path, trust: Callable[..., None]) -> None:
    spoil, message = BAD[name]
    frames = frames_of(tmp_path)
    spoil(frames)
    path = tmp_path / "bad é.extxyz"
    write(path, frames, format="extxyz")
    with pytest.raises(BadInput, match=message) as caught:
        read_trajectory(path)
    text = str(caught.value)
    assert path.name in text and "allowed:" in text and "fix:" in text
    trust("T30", f"trajectory: {name}", "refused: file, value, allowed, fix", "refused: file, value, allowed, fix")


def test_no_time_between_frames(tmp_path: Path, trust: Callable[..., None]) -> None:
    path = write_xdatcar(tmp_path / "XDATCAR", moving(), variable=True)
    with pytest.raises(BadInput, match="--frame-time-fs"):
        read_trajectory(path)
    told = write_extxyz(tmp_path / "told.extxyz", moving())
    with pytest.raises(BadInput, match="says 100 fs"):
        read_trajectory(told, time_step_fs=50.0)
    trust("T30", "trajectory: no time between frames", "asks for --frame-time-fs", "asks for --frame-time-fs")


def test_runs_that_do_not_follow(tmp_path: Path) -> None:
    original = moving()
    first = write_extxyz(tmp_path / "1.extxyz", part(original, slice(0, 15)), wrapped=True)
    gap = write_extxyz(tmp_path / "3.extxyz", part(original, slice(17, 40)), wrapped=True, steps=False)
    with pytest.raises(BadInput, match="begins at time 1700"):
        read_trajectory([first, gap])
    far = write_extxyz(tmp_path / "4.extxyz", part(original, slice(30, 40)), times=False, steps=False)
    with pytest.raises(BadInput, match="does not continue"):
        read_trajectory([write_extxyz(tmp_path / "5.extxyz", part(original, slice(0, 15)), times=False), far], time_step_fs=100.0)
    other = write_extxyz(tmp_path / "6.extxyz", replace(original, numbers=original.numbers.flip(0)))
    with pytest.raises(BadInput, match="other atoms"):
        read_trajectory([first, other])


def joined(tmp_path: Path, jump: float, *, ions: int = 27, each: float = 0.3) -> list[Path]:
    """Two runs without times: Li move about `each` Å a frame and `jump` Å at the joint, the host vibrates."""
    rng = np.random.default_rng(4)
    still = crystal(2, frames=FRAMES, vibration=0.05)
    steps = each * rng.normal(size=(FRAMES, ions, 3)) / 3**0.5
    steps[20] *= jump / each
    positions = still.positions.clone()
    positions[:, :ions] += torch.from_numpy(np.cumsum(steps, axis=0))
    numbers = still.numbers.clone()
    numbers[ions:27] = 11
    whole = replace(still, positions=positions, numbers=numbers)
    parts = (part(whole, slice(0, 20)), part(whole, slice(20, FRAMES)))
    return [write_extxyz(tmp_path / f"{k}.extxyz", p, times=False, steps=False) for k, p in enumerate(parts)]


def test_a_joint_where_only_the_mobile_ion_jumps(tmp_path: Path, trust: Callable[..., None]) -> None:
    """27 of 35 atoms jump; then 16, which the host hides in the median of all atoms."""
    with pytest.raises(BadInput, match=r"does not continue the run before it: (Li )?atoms jump by"):
        read_trajectory(joined(tmp_path, 1.7, each=0.5), time_step_fs=100.0)
    whole = read_trajectory(joined(tmp_path, 0.5, each=0.5), time_step_fs=100.0)
    assert whole.trajectory.positions.shape[0] == FRAMES
    with pytest.raises(BadInput, match=r"1\.extxyz.*does not continue the run before it: Li atoms jump by [12]\.\d\d Å"):
        read_trajectory(joined(tmp_path, 1.7, ions=16, each=0.5), time_step_fs=100.0)
    trust("T30", "two runs joined where the mobile ion jumps by 1.7 Å, usually 0.5", "refused", "refused")


@pytest.mark.planted
def test_a_hidden_jump_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]) -> None:
    monkeypatch.setattr("mdistill.io.unwrap.FEW_ATOMS", 10**6)
    read_trajectory(joined(tmp_path, 1.7, ions=16, each=0.5), time_step_fs=100.0)
    trust("T30", "planted: joints tested over all atoms together", "noticed", "noticed", planted=True)


def test_joints_of_one_walk_pass(tmp_path: Path) -> None:
    """A joint like any other frame is refused in none of 30 walks with few, many, slow and fast ions."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        still = crystal(seed, frames=FRAMES, vibration=0.1)
        positions = still.positions.clone()
        positions[:, :27] += torch.from_numpy(np.cumsum((0.1 + 0.02 * seed) * rng.standard_t(4, size=(FRAMES, 27, 3)), axis=0))
        halves = (positions[:20].numpy(), positions[20:].numpy())
        check_joint(*halves, still.cell[20:].numpy(), still.numbers.numpy(), path=tmp_path)


def test_cells_that_do_not_fit_together(tmp_path: Path) -> None:
    original = moving()
    first = write_extxyz(tmp_path / "1.extxyz", part(original, slice(0, 20)), times=False, steps=False)
    larger = part(replace(original, cell=1.2 * original.cell), slice(20, 40))
    second = write_extxyz(tmp_path / "2.extxyz", larger, times=False, steps=False)
    with pytest.raises(BadInput, match=r"2\.extxyz.*cell changes from .* at frame 1"):
        read_trajectory([first, second], time_step_fs=100.0)


def test_an_atom_far_away_in_an_open_cell(tmp_path: Path) -> None:
    frames = [Atoms("H2", positions=[[0, 0, 0], [0.8 + 0.01 * k, 0, 0]]) for k in range(30)]
    frames[4].positions[1, 2] += 1e6
    write(tmp_path / "open.extxyz", frames)
    with pytest.raises(BadInput, match="atom 2 moves by 1e"):
        read_trajectory(tmp_path / "open.extxyz", time_step_fs=1.0)


def test_massless_atoms_of_an_hdf5_trajectory(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="atom 2 has a mass of 0 u"):
        check_masses(np.array([1.0, 0.0]), tmp_path / "run.h5")


HEADER = "Li S\n1.0\n12 0 0\n0 12 0\n0 0 12\n"
FRAME = "Direct configuration=     1\n0 0 0\n0.5 0.5 0.5\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ("hello\n", "no frames|not recognised"),
        (HEADER + "Li S\n1 1\n" + FRAME + "Direct configuration=     2\n0 0 0\n", "frame 2 of 2"),
        (HEADER + "1 1\n" + FRAME, "--elements"),
        (HEADER.replace("0 12 0", "0 0 0") + "Li S\n1 1\n" + FRAME, "periodic along b, but this edge of the cell is 0 Å"),
        (HEADER.replace("0 12 0", "0 x 0") + "Li S\n1 1\n" + FRAME, "header"),
    ],
)
def test_bad_files(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "XDATCAR"
    path.write_text(content)
    with pytest.raises(BadInput, match=message):
        read_trajectory(path, time_step_fs=1.0)


def test_missing_configurations_in_xdatcar(tmp_path: Path) -> None:
    path = write_xdatcar(tmp_path / "XDATCAR", moving())
    lines = path.read_text().splitlines()
    kept = lines[: 7 + 36 * 5] + lines[7 + 36 * 6 :]
    path.write_text("\n".join(kept) + "\n")
    with pytest.raises(BadInput, match="step 5"):
        read_trajectory(path, time_step_fs=100.0)


def test_no_such_file_and_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_trajectory(tmp_path / "absent.extxyz")
    with pytest.raises(BadInput, match="stride"):
        read_trajectory(tmp_path / "absent.extxyz", stride=0)
    with pytest.raises(BadInput, match="a single frame"):
        read_trajectory(write_extxyz(tmp_path / "one.extxyz", part(moving(), slice(0, 1)), times=False), time_step_fs=1.0)


def test_unwrap_leaves_open_directions_alone() -> None:
    cells = np.zeros((30, 3, 3))
    cells[:, 0, 0] = 10.0
    positions = np.cumsum(np.full((30, 1, 3), 1.5), axis=0)
    wrapped = positions.copy()
    wrapped[..., 0] %= 10.0
    found, _ = unwrap(wrapped, cells, np.array([3]), path=Path("x"))
    assert found == pytest.approx(positions)


def test_far_hops_of_several_ions_are_no_change_of_order() -> None:
    """Three Li hop 2 Å to free sites in one frame: not refused."""
    positions = np.tile(crystal(0, frames=1).positions.numpy(), (10, 1, 1))
    positions[5:, :3, 0] += 2.0
    cells = np.tile(12.0 * np.eye(3), (10, 1, 1))
    found, notes = unwrap(positions, cells, np.array([3] * 27 + [16] * 8), path=Path("x"))
    assert np.array_equal(found, positions) and notes == []

"""export/ipi_driver.py: the driver in i-PI's units, inside i-PI and behind a UNIX socket."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write

from mdistill import cli
from mdistill.derivatives import Conservative
from mdistill.export import ipi_client
from mdistill.export.ase import calculator
from mdistill.export.ipi_driver import ADDRESS, MdistillDriver, socket_command
from mdistill.io.structures import to_atoms
from mdistill.nets.model_files import save_model
from systems import SYSTEMS, random_box, tiny_net

pytest.importorskip("ipi")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::mdistill.errors.MdistillNotice")]
SCRIPTS = Path(sys.executable).parent


def exported(folder: Path, *, steps: int, mode: str = "nvt", time_step: float = 1.0) -> Path:
    """A folder of `mdistill export ipi` for a relaxed random box."""
    from ase.optimize import FIRE

    save_model(folder / "made.mdistill", tiny_net())
    atoms = to_atoms(random_box(8, atoms=20, length=8.0, skew=0.1))
    atoms.calc = calculator(folder / "made.mdistill")
    FIRE(atoms, logfile=None, maxstep=0.05).run(fmax=1.0, steps=200)
    atoms.calc = None
    write(folder / "crystal.extxyz", atoms)
    words = ["export", "ipi", str(folder / "made.mdistill"), "--structure", str(folder / "crystal.extxyz")]
    assert cli.run([*words, "--out", str(folder / "ipi")]) == 0
    for path in (folder / "ipi").glob("input*.xml"):
        text = path.read_text(encoding="utf-8").replace("<total_steps>1000", f"<total_steps>{steps}")
        text = text.replace("mode='nvt'", f"mode='{mode}'").replace(">1</timestep>", f">{time_step}</timestep>")
        text = text.replace("properties stride='10'", "properties stride='1'").replace(">600</velocities>", ">300</velocities>")
        path.write_text(text.replace(f"<address>{ADDRESS}<", f"<address>{ADDRESS}-{os.getpid()}<"), encoding="utf-8")
    return folder / "ipi"


def start(folder: Path, command: str) -> subprocess.Popen[str]:
    program, *words = shlex.split(command)
    run = [] if program == "python" else [str(SCRIPTS / program)]
    paths = os.pathsep.join([str(Path(__file__).parents[2] / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, *run, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONPATH": paths, "MDISTILL_QUIET": "1"},
    )  # fmt: skip


def rows(folder: Path, input_file: str = "input.xml") -> np.ndarray:
    """What i-PI wrote in a run: step, time, conserved energy, temperature, potential energy, pressure."""
    said, _ = (process := start(folder, f"i-pi {input_file}")).communicate(timeout=200)
    assert process.returncode == 0, said
    return np.loadtxt(folder / "run.out")


@pytest.mark.parametrize("name", ["box", "very skewed", "cell shorter than the cutoff", "slab", "molecule"])
def test_the_driver_gives_what_i_pis_own_driver_of_ase_gives(name, tmp_path, monkeypatch, trust):
    from ipi.pes._ase import ASEDriver
    from ipi.utils.units import unit_to_internal

    monkeypatch.chdir(tmp_path)
    save_model(Path("student.mdistill"), tiny_net())
    atoms = to_atoms(SYSTEMS[name]())
    write("start.extxyz", atoms)
    periodic = bool(atoms.pbc.all())
    theirs = ASEDriver("start.extxyz", has_stress=periodic)
    theirs.ase_calculator = calculator(Conservative(tiny_net()))
    angstrom = unit_to_internal("length", "angstrom", 1.0)
    where = (angstrom * atoms.cell.array.T, angstrom * atoms.positions)
    ours = MdistillDriver("student.mdistill", "start.extxyz")
    if periodic:
        wanted = theirs(*where)
    else:
        atoms.calc = theirs.ase_calculator
        ev, force = unit_to_internal("energy", "electronvolt", 1.0), unit_to_internal("force", "ev/ang", 1.0)
        wanted = (ev * atoms.get_potential_energy(), force * atoms.get_forces(), np.zeros((3, 3)), "")
    worst = 0.0
    for found in (ours(*where), ours([where[0]] * 2, [where[1]] * 2)[1]):
        for got, expected in zip(found[:3], wanted[:3], strict=True):
            worst = max(worst, float(np.abs(got - np.reshape(expected, np.shape(got))).max() / max(np.abs(expected).max(), 1e-3)))
    assert worst < 1e-10
    trust("T7", f"i-PI driver, {name}: energy, forces, virial against i-PI's driver of ASE, relative", worst, "≤ 1e-10")


def test_the_charge_of_the_structure_reaches_the_potential(tmp_path):
    save_model(tmp_path / "made.mdistill", tiny_net())
    atoms = to_atoms(SYSTEMS["molecule"]())
    atoms.info |= {"charge": -1, "unpaired": 2}
    write(tmp_path / "ion.extxyz", atoms)
    words = ["export", "ipi", str(tmp_path / "made.mdistill"), "--structure", str(tmp_path / "ion.extxyz")]
    assert cli.run([*words, "--out", str(tmp_path / "ipi")]) == 0
    driver, seen = MdistillDriver(str(tmp_path / "made.mdistill"), str(tmp_path / "ipi" / "start.extxyz")), []
    evaluate = driver._evaluate
    driver._evaluate = lambda system: seen.append(system) or evaluate(system)
    driver(np.zeros((3, 3)), 2.0 * atoms.positions)
    assert (int(seen[-1].charge), int(seen[-1].unpaired)) == (-1, 2)


def test_i_pi_runs_the_folder_and_a_socket_gives_the_same(tmp_path, trust):
    folder = exported(tmp_path, steps=20)
    inside = rows(folder)
    atoms = read(folder / "start.extxyz")
    atoms.calc = calculator(Conservative(tiny_net()))
    assert abs(inside[0, 4] / atoms.get_potential_energy() - 1.0) < 1e-7  # i-PI writes nine digits
    for name in ("run.out", "RESTART"):
        (folder / name).unlink()
    engine = start(folder, "i-pi input-socket.xml")
    command = socket_command("student.mdistill", address=f"{ADDRESS}-{os.getpid()}")
    socket = Path(f"/tmp/ipi_{ADDRESS}-{os.getpid()}")  # noqa: S108
    try:
        for _ in range(600):
            if socket.exists() or engine.poll() is not None:
                break
            time.sleep(0.1)
        driver = start(folder, command)
        said = engine.communicate(timeout=200)[0]
        assert engine.returncode == 0, said
        driver.communicate(timeout=100)
    finally:
        engine.kill()
    outside = np.loadtxt(folder / "run.out")
    deviation = float(np.abs(outside - inside).max())
    assert deviation < 1e-6
    trust("T7", "i-PI: 20 steps by a socket against inside, largest difference", deviation, "≤ 1e-6")


def test_energy_is_conserved(tmp_path):
    spread = []
    for step in (0.4, 0.2):
        (tmp_path / str(step)).mkdir()
        found = rows(exported(tmp_path / str(step), steps=round(40 / step), mode="nve", time_step=step))
        spread.append(found[:, 2].std())
    assert 3.0 < spread[0] / spread[1] < 5.5, spread


def test_bad_input_is_named(tmp_path, capsys):
    save_model(tmp_path / "student.mdistill", tiny_net())
    words = ["export", "ipi", str(tmp_path / "student.mdistill"), "--out", str(tmp_path / "out")]
    assert cli.run(words) == 2 and "--structure" in capsys.readouterr().err
    atoms = to_atoms(random_box(1))
    atoms.numbers[0] = 29
    write(tmp_path / "other.extxyz", atoms)
    assert cli.run([*words, "--structure", str(tmp_path / "other.extxyz")]) == 2 and "holds Cu, which" in capsys.readouterr().err


def test_an_input_file_that_was_edited_is_kept(tmp_path, capsys):
    save_model(tmp_path / "student.mdistill", tiny_net())
    write(tmp_path / "start.extxyz", to_atoms(random_box(1)))
    out = tmp_path / "out"
    words = [
        "export",
        "ipi",
        str(tmp_path / "student.mdistill"),
        "--structure",
        str(tmp_path / "start.extxyz"),
        "--out",
        str(out),
    ]
    assert cli.run(words) == 0
    plain = (out / "input.xml").read_text(encoding="utf-8")
    for edited in ("mine", "mine too"):
        (out / "input.xml").write_text(edited, encoding="utf-8")
        assert cli.run(words) == 0
    assert (
        "is now input.xml.1" in (said := capsys.readouterr().out) and "is now input.xml.2" in said and "socket.xml." not in said
    )
    assert [(out / f"input.xml{k}").read_text(encoding="utf-8") for k in ("", ".1", ".2")] == [plain, "mine", "mine too"]


@pytest.mark.parametrize("killed", ["client", "i-PI"])
def test_the_other_ends_with_a_message(killed, tmp_path):
    folder, address = exported(tmp_path, steps=10_000_000), f"{ADDRESS}-{os.getpid()}"
    engine = start(folder, "i-pi input-socket.xml")
    client = start(folder, socket_command("student.mdistill", address=address))
    both = {"i-PI": engine, "client": client}
    try:
        out = folder / "run.out"
        for _ in range(2000):
            if (out.is_file() and out.stat().st_size > 2000) or engine.poll() is not None or client.poll() is not None:
                break
            time.sleep(0.1)
        assert out.stat().st_size > 2000 and engine.poll() is None and client.poll() is None
        both.pop(killed).kill()
        (other,) = both.values()
        try:
            said, _ = other.communicate(timeout=100)
        except subprocess.TimeoutExpired:
            other.kill()
            pytest.fail(f"it waits for ever: {other.communicate()[0][-2000:]}")
    finally:
        for process in (engine, client):
            process.kill()
            process.communicate()
        Path(f"/tmp/ipi_{address}").unlink(missing_ok=True)  # noqa: S108
    if killed == "client":
        assert "Client shutdown" in said, said[-2000:]
        assert (folder / "RESTART").is_file()
    else:
        assert other.returncode == 1 and "the connection to i-PI broke" in said and "i-pi RESTART" in said, said[-2000:]


def test_no_i_pi_is_told(tmp_path, monkeypatch, capsys):
    save_model(tmp_path / "student.mdistill", tiny_net())
    (tmp_path / "start.extxyz").write_text('1\nLattice="9 0 0 0 9 0 0 0 9" pbc="T T T"\nLi 0 0 0\n', encoding="utf-8")
    monkeypatch.setattr(ipi_client, "connect", lambda address: ipi_client.socket.socket())
    words = ["nobody", str(tmp_path / "student.mdistill"), str(tmp_path / "start.extxyz")]
    assert ipi_client.main(words) == 1 and "the connection to i-PI broke" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(ipi_client.connect, "__kwdefaults__", {"wait_s": 0.2})
    assert ipi_client.main(words) == 2 and "no i-PI answers" in capsys.readouterr().err
    assert ipi_client.main(words[:1]) == 2 and "3 or 4" in capsys.readouterr().err

"""export/ipi_driver.py: the driver in i-PI's units, inside i-PI and behind a UNIX socket."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write

from mdistill import cli
from mdistill.derivatives import Conservative
from mdistill.export import ipi_client, ipi_resume
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


def frames(folder: Path) -> dict[int, np.ndarray]:
    """Positions of the trajectory by step; a step that is there twice fails."""
    lines = (folder / "run.pos_0.xyz").read_text(encoding="utf-8").splitlines()
    size = int(lines[0]) + 2
    steps = [int(re.search(r"Step:\s*(\d+)", comment)[1]) for comment in lines[1::size]]
    assert len(steps) == len(set(steps)), steps
    starts = range(2, len(lines), size)
    return {k: np.loadtxt(lines[s : s + size - 2], usecols=(1, 2, 3)) for k, s in zip(steps, starts, strict=True)}


@pytest.mark.parametrize("by", ["inside", "socket"])
def test_a_run_whose_processes_were_all_killed_resumes(by, tmp_path, capsys):
    """i-PI and its client killed with signal 9: one run results, as one that was not killed, with nothing twice."""
    folder, whole, address = exported(tmp_path, steps=400), tmp_path / "whole", f"{ADDRESS}-{os.getpid()}"
    for path in folder.glob("input*.xml"):
        text = path.read_text(encoding="utf-8").replace("stride='500'", "stride='60'").replace("stride='700'", "stride='50'")
        path.write_text(text.replace("trajectory stride='50'", "trajectory stride='7'"), encoding="utf-8")
    shutil.copytree(folder, whole)
    expected = rows(whole)

    def begin(file: str) -> list[subprocess.Popen[str]]:
        clients = [start(folder, socket_command("student.mdistill", address=address))] if by == "socket" else []
        return [start(folder, f"i-pi {file}"), *clients]

    processes, restart = begin("input.xml" if by == "inside" else "input-socket.xml"), folder / "run.restart"
    try:
        for _ in range(20_000):
            if restart.is_file() and len((folder / "run.out").read_text(encoding="utf-8").splitlines()) > 95:
                break
            assert all(process.poll() is None for process in processes)
            time.sleep(0.005)
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()
        done = len((folder / "run.out").read_text(encoding="utf-8").splitlines()) - 7
        assert 60 < done < 390, done
        with open(folder / "run.out", "a", encoding="utf-8") as handle:
            handle.write("    9.1000")  # a row that was being written
        said, _ = (resuming := start(folder, f"python -m mdistill.export.ipi_resume {folder}")).communicate()
        assert resuming.returncode == 0, said
        checkpoint = re.search(r"continue: cd .* && i-pi (\S+)", said)[1]
        assert "run.out: cut after step" in said and ("removed, nobody listened there" in said) == (by == "socket"), said
        assert ("start the clients again" in said) == (by == "socket")
        again = begin(checkpoint)
        processes += again
        said = again[0].communicate(timeout=200)[0]
        assert again[0].returncode == 0, said[-2000:]
        assert not again[1:] or again[1].wait(100) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
        Path(f"/tmp/ipi_{address}").unlink(missing_ok=True)  # noqa: S108
    found = np.loadtxt(folder / "run.out")
    assert found[:, 0].tolist() == expected[:, 0].tolist() == list(range(401))
    assert np.abs(found - expected)[:, 2].max() < 1e-5, "the conserved energy; a checkpoint has nine digits"
    mine, theirs = frames(folder), frames(whole)
    assert list(mine) == list(theirs) == list(range(0, 401, 7))
    assert max(float(np.abs(mine[k] - theirs[k]).max()) for k in mine) < 1e-3
    assert ipi_resume.main([str(folder)]) == 2 and "the run is done: 400 steps of 400" in capsys.readouterr().err


def checkpoint(path: Path, step: int, *, damaged: bool = False) -> None:
    text = f"""<!-- i-PI --><simulation><output prefix='run'><properties shape='(1)'>[ step ]</properties>
    <trajectory filename='pos' stride='5'>positions</trajectory></output><step>{step}</step><total_steps>90</total_steps>
    <ffsocket mode='unix' name='s'><address>nobody-{os.getpid()}</address></ffsocket><system><beads><q>[ 0 ]</q></beads></system>
    </simulation>"""
    path.write_text(text[: len(text) // 2] if damaged else text, encoding="utf-8")


def outputs(folder: Path, steps: list[int]) -> None:
    """Rows of every step and frames of every fifth."""
    (folder / "run.out").write_text("# column   1     --> step : x\n" + "".join(f" {k:.8e} \n" for k in steps), encoding="utf-8")
    xyz = "".join(f"1\n# CELL Step:   {k}  Bead: 0\nLi 0 0 {k}\n" for k in steps if k % 5 == 0)
    (folder / "run.pos_0.xyz").write_text(xyz, encoding="utf-8")


def test_the_last_whole_checkpoint_of_the_run_is_chosen_and_what_is_wrong_is_told(tmp_path, capsys):
    def said(*words: str, status: int = 0) -> str:
        assert ipi_resume.main([*map(str, words)]) == status
        found = capsys.readouterr()
        return found.out + found.err

    outputs(tmp_path, [*range(0, 44)])
    assert "no whole checkpoint" in said(tmp_path, status=2)
    checkpoint(tmp_path / "RESTART", 70)
    assert "RESTART: is of step 70, but the output files end before step 45" in said(tmp_path, status=2)
    checkpoint(tmp_path / "run.restart", 40, damaged=True)
    checkpoint(tmp_path / "run.earlier", 31)
    text = said(tmp_path)
    assert "run.restart is damaged" in text and f"continue: cd {tmp_path} && i-pi run.earlier" in text
    assert np.loadtxt(tmp_path / "run.out").tolist() == list(range(32)) and list(frames(tmp_path)) == list(range(0, 31, 5))
    outputs(tmp_path, [*range(0, 20), *range(15, 28)])
    text = said(tmp_path / "run.earlier", status=2)
    assert "the output files end before step 30" in text
    checkpoint(tmp_path / "run.earlier", 27)
    text = said(tmp_path / "run.earlier")
    assert "run.out has steps from 15 on twice" in text and "run.pos_0.xyz" in text
    outputs(tmp_path, [*range(0, 40)])
    with open(tmp_path / "run.pos_0.xyz", "r+", encoding="utf-8") as handle:
        handle.truncate(3 * (tmp_path / "run.pos_0.xyz").stat().st_size // 5)
    assert "run.pos_0.xyz lacks steps" in said(tmp_path / "run.earlier")
    outputs(tmp_path, [*range(0, 26)])  # the last frame is of step 25, and the next would be of 30
    (tmp_path / "run.out").write_text("# column   1     --> time{ps} : x\n 0.0 \n", encoding="utf-8")
    assert "run.out tells no steps" in said(tmp_path / "run.earlier") and (tmp_path / "run.out").stat().st_size > 30
    with ipi_client.socket.socket(ipi_client.socket.AF_UNIX) as server:
        path = Path(f"/tmp/ipi_nobody-{os.getpid()}")  # noqa: S108
        server.bind(str(path))
        try:
            server.listen()
            text, _ = start(tmp_path, "python -m mdistill.export.ipi_resume run.earlier").communicate()  # no guard of the tests
            assert "i-PI is at work there" in text and path.exists()
        finally:
            path.unlink()
    assert "no such file" in said(tmp_path / "none", status=2) and "none, or one" in said("a", "b", status=2)


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

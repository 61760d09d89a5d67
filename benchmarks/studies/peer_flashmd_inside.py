"""FlashMD in its own environment: training by metatrain, errors of one stride, runs and times; see peer_flashmd.py, which calls
this with the Python of that environment, in the folder of one size, and reads the answer as JSON.

    PYTHON_WITH_FLASHMD benchmarks/studies/peer_flashmd_inside.py WHAT --size SIZE --answer FILE --pairs FILE ...
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from mdistill.units import BOLTZMANN, KINETIC

VALIDATION_EVERY, UNCOUNTED, TRIAL_BATCHES = 20, 3, 4
SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "d_pet": 32, "d_head": 32, "d_node": 128, "d_feedforward": 64, "num_heads": 4, "num_attention_layers": 1,
        "num_gnn_layers": 2,
    },
    "default": {},
}  # fmt: skip
ENSEMBLES = ("NVE", "Langevin", "Bussi")


def frame(pairs: Any, which: int) -> Any:
    """First half of one pair as ASE atoms with momenta in ASE's units."""
    import ase.units
    from ase import Atoms

    atoms = Atoms(pairs["numbers"], positions=pairs["positions0"][which], cell=pairs["cell"], pbc=True, masses=pairs["masses"])
    atoms.set_momenta(pairs["momenta0"][which] / ase.units.fs)
    return atoms


def check_units(pairs: Any) -> None:
    """The kinetic energy ASE finds is the one of our units, for the first half of every pair."""
    ours = (pairs["momenta0"] ** 2 / (2 * pairs["masses"][:, None])).sum((1, 2)) * KINETIC
    theirs = np.array([frame(pairs, k).get_kinetic_energy() for k in range(len(ours))])
    if not np.allclose(ours, theirs, rtol=1e-6):
        raise SystemExit(f"kinetic energies differ between units, by up to {np.abs(theirs / ours - 1).max():.2e}")


def write_frames(path: Path, pairs: Any, chosen: np.ndarray) -> None:
    """Pairs as the extended xyz file that metatrain reads."""
    import ase.units
    from ase.io import write

    frames = []
    for k in chosen:
        atoms = frame(pairs, k)
        atoms.arrays["future_positions"] = pairs["positions1"][k]
        atoms.arrays["future_momenta"] = pairs["momenta1"][k] / ase.units.fs
        frames.append(atoms)
    write(path, frames, format="extxyz")


def options(files: tuple[str, str], pairs: Any, size: str, batch: int, epochs: int) -> dict[str, Any]:
    """What `mtt train` would be given."""
    mass = {int(z): float(m) for z, m in zip(pairs["numbers"], pairs["masses"], strict=True)}

    def target(key: str, quantity: str, unit: str) -> dict[str, Any]:
        kind = {"cartesian": {"rank": 1}}
        return {"quantity": quantity, "unit": unit, "key": key, "sample_kind": "atom", "num_subtargets": 1, "type": kind}

    def data(file: str) -> dict[str, Any]:
        targets = {
            "position": target("future_positions", "length", "A"),
            "momentum": target("future_momenta", "momentum", "(eV*u)^(1/2)"),
        }
        return {"systems": {"read_from": file, "length_unit": "angstrom"}, "targets": targets}

    training = {
        "timestep": float(pairs["stride_fs"]), "masses": mass, "batch_size": batch, "num_epochs": epochs, "num_workers": 0,
        "checkpoint_interval": 10**9,
    }  # fmt: skip
    return {
        "seed": 1, "device": "cpu", "base_precision": 32,
        "architecture": {"name": "experimental.flashmd", "model": SIZES[size], "training": training},
        "training_set": data(files[0]), "validation_set": data(files[1]), "test_set": 0.0,
    }  # fmt: skip


class Enough(Exception):
    pass


class Listener(logging.Handler):
    """Reads metatrain's log: when each epoch ended (processor seconds), its numbers; stops after `seconds` or at the export."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.ends, self.last, self.parameters = seconds, list[float](), "", 0

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "actual number: " in message:
            self.parameters = int(message.split("actual number: ")[1].split(")")[0])
        if message.startswith(("Starting training\n", "Epoch:")) or message == "Starting training":
            self.ends.append(time.process_time())
            self.last = message
            if len(self.ends) > 2 and self.ends[-1] - self.ends[0] > self.seconds:
                raise Enough
        if message.startswith("Exported model"):  # what would follow is an evaluation of all pairs
            raise Enough


def run_metatrain(given: dict[str, Any], folder: str, seconds: float) -> Listener:
    """`mtt train` in this process; model.pt and model.ckpt stay in the folder that we are in, its notes in `folder`."""
    from metatrain.cli.train import train_model
    from omegaconf import OmegaConf

    Path(folder).mkdir(exist_ok=True)
    for note in Path(folder).glob("indices/*"):  # metatrain refuses a folder with notes of a run that was cut short
        note.unlink()
    if (Path(folder) / "indices").is_dir():
        (Path(folder) / "indices").rmdir()
    listener, log = Listener(seconds), logging.getLogger()
    log.addHandler(listener)
    log.setLevel(logging.INFO)
    try:
        train_model(OmegaConf.create(given), output="model.pt", checkpoint_dir=folder)
    except Exception as error:  # metatrain wraps what is raised while it trains
        if not isinstance(error, Enough) and not isinstance(error.__cause__, Enough):
            raise
    finally:
        log.removeHandler(listener)
    return listener


def train(words: argparse.Namespace) -> dict[str, Any]:
    """Train one size in its folder; gives what was spent on it."""
    pairs = np.load(words.pairs)
    check_units(pairs)
    usable = np.flatnonzero(~pairs["held_out"])
    shuffled = np.random.default_rng(0).permutation(usable)
    watched, taught = shuffled[::VALIDATION_EVERY], np.delete(shuffled, np.s_[::VALIDATION_EVERY])
    few = TRIAL_BATCHES * words.batch
    for name, chosen in (("few", taught[:few]), ("watch-few", watched[: max(few // VALIDATION_EVERY, 1)])):
        write_frames(Path(f"{name}.xyz"), pairs, chosen)
    trial = run_metatrain(
        options(("few.xyz", "watch-few.xyz"), pairs, words.size, words.batch, 1000), "trial", 2.4 * words.minutes
    )
    epochs_of_few = np.diff(trial.ends)[1:] if len(trial.ends) > 2 else np.diff(trial.ends)
    seconds_per_pair = float(np.median(epochs_of_few)) / few
    affordable = 60.0 * words.minutes / seconds_per_pair
    epochs = max(math.ceil(affordable / len(taught)), 1)
    taught = taught[: max(int(affordable / epochs) // words.batch, 1) * words.batch]  # so that whole epochs fill the time
    write_frames(Path("train.xyz"), pairs, taught)
    write_frames(Path("watch.xyz"), pairs, watched[: max(len(taught) // VALIDATION_EVERY, words.batch)])
    begun, wall = time.process_time(), time.monotonic()
    done = run_metatrain(options(("train.xyz", "watch.xyz"), pairs, words.size, words.batch, epochs), "training", math.inf)
    return {
        "parameters": done.parameters, "pairs": len(taught), "epochs": epochs, "steps": epochs * (len(taught) // words.batch),
        "processor minutes": (time.process_time() - begun) / 60, "wall minutes": (time.monotonic() - wall) / 60,
        "trial s/pair": seconds_per_pair, "last": done.last,
    }  # fmt: skip


def integrator(atoms: Any, model: Any, stride: float, ensemble: str, *, rescale: bool, temperature: float = 0.0) -> Any:
    """FlashMD's own integrator with its default thermostat times (Langevin 100 fs, Bussi 10 fs)."""
    import ase.units
    from flashmd.ase.bussi import Bussi
    from flashmd.ase.langevin import Langevin
    from flashmd.ase.velocity_verlet import VelocityVerlet

    common = {"model": model, "device": "cpu", "rescale_energy": rescale, "rng": np.random.default_rng(7)}
    if ensemble == "NVE":
        return VelocityVerlet(atoms, stride * ase.units.fs, **common)
    kind = Langevin if ensemble == "Langevin" else Bussi
    return kind(atoms, stride * ase.units.fs, temperature_K=temperature, **common)


def one_stride(model: Any, pairs: Any) -> list[dict[str, Any]]:
    """Errors on the held-out pairs by temperature, of each element and of all atoms; of free flight without a model."""
    import ase.units

    stride, root = float(pairs["stride_fs"]), np.sqrt(pairs["masses"])[:, None]
    rows = []
    for kelvin in np.unique(pairs["temperature"]):
        chosen = np.flatnonzero(pairs["held_out"] & (pairs["temperature"] == kelvin))
        true, q, p = pairs["momenta1"][chosen] / root, [], []
        for k in chosen:
            atoms = frame(pairs, k)
            if model is None:
                atoms.set_positions(atoms.positions + atoms.get_velocities() * stride * ase.units.fs)
            else:
                integrator(atoms, model, stride, "NVE", rescale=False).step()
            q.append((atoms.positions - pairs["positions1"][k]) * root / stride)
            p.append((atoms.get_momenta() * ase.units.fs - pairs["momenta1"][k]) / root)
        row: dict[str, Any] = {"temperature (K)": float(kelvin), "held-out pairs": len(chosen)}
        for name, part in parts(pairs["numbers"]).items():
            scale = np.sqrt((true[:, part] ** 2).mean())
            for letter, error in (("q", q), ("p", p)):
                row[f"{letter} error {name}"] = float(np.sqrt((np.array(error)[:, part] ** 2).mean()) / scale)
        rows.append(row | {"kinetic energy (%)": 100 * float(((true + np.array(p)) ** 2).sum() / (true**2).sum() - 1)})
    return rows


def parts(numbers: np.ndarray) -> dict[str, np.ndarray]:
    from ase.data import chemical_symbols

    return {"all": np.full(len(numbers), True)} | {chemical_symbols[z]: numbers == z for z in np.unique(numbers)}


def temperatures(atoms: Any) -> list[float]:
    """K, of all atoms and of each element (ascending); 3(1 − m_i/M) degrees of freedom each."""
    masses, momenta = atoms.get_masses(), atoms.get_momenta()
    twice, freedom = (momenta**2).sum(1) / masses, 3 * (1 - masses / masses.sum())
    return [float(twice[part].sum() / freedom[part].sum() / BOLTZMANN) for part in parts(atoms.numbers).values()]


def drive(model: Any, words: argparse.Namespace, ensemble: str, rescale: bool) -> dict[str, Any]:
    """One run: temperatures after each stride, and why it ended early if it did."""
    import torch
    from ase.constraints import FixCom

    from mdistill.export.ase import calculator
    from mdistill.teachers.models import load

    begin, pairs = np.load(words.begin), np.load(words.pairs)
    atoms = frame(begin, 0)
    atoms.set_constraint(FixCom())
    if rescale:
        atoms.calc = calculator(load(words.student))
    torch.manual_seed(3)
    moving = integrator(atoms, model, float(pairs["stride_fs"]), ensemble, rescale=rescale, temperature=float(words.temperature))
    series: list[list[float]] = []
    ended = ""
    while len(series) < words.strides and not ended:
        try:
            moving.step()
        except Exception as error:
            ended = f"{type(error).__name__}: {error}"[:150]
            break
        series.append(temperatures(atoms))
        if not np.isfinite(atoms.positions).all():
            ended = "positions not finite"
        elif not math.isfinite(series[-1][0]):  # with the rescale: the root of a negative number, H < V'
            ended = "momenta not finite"
        elif series[-1][0] > 20 * words.temperature:
            ended = "above 20 times the temperature"
    good = [row for row in series if all(math.isfinite(value) for value in row)]
    return {"ensemble": ensemble, "rescale": rescale, "ended": ended, "temperatures": good}


def timed(model: Any, words: argparse.Namespace, rescale: bool) -> list[dict[str, Any]]:
    """Median wall and processor time of a stride without thermostat, 1 and 8 times the cell (TorchScript's first calls
    uncounted)."""
    from mdistill.export.ase import calculator
    from mdistill.teachers.models import load

    begin, pairs = np.load(words.begin), np.load(words.pairs)
    rows = []
    for repeat in (1, 2):
        one = frame(begin, 0)
        atoms = one.repeat(repeat)
        if rescale:
            atoms.calc = calculator(load(words.student))
        start = (atoms.positions.copy(), np.tile(one.get_momenta(), (repeat**3, 1)))
        moving = integrator(atoms, model, float(pairs["stride_fs"]), "NVE", rescale=rescale)
        wall, work = [], []
        for _ in range(UNCOUNTED + 7):
            atoms.set_positions(start[0])
            atoms.set_momenta(start[1])
            begun, before = time.perf_counter(), time.process_time()
            moving.step()
            wall.append(time.perf_counter() - begun)
            work.append(time.process_time() - before)
        atom = 1e6 / len(atoms)
        rows.append(
            {
                "atoms": len(atoms), "rescale": rescale, "us_per_atom_stride": atom * statistics.median(wall[UNCOUNTED:]),
                "processor us_per_atom_stride": atom * statistics.median(work[UNCOUNTED:]),
            }
        )  # fmt: skip
    return rows


def answer(words: argparse.Namespace) -> Any:
    """A task in the peer's environment, in the folder of one size."""
    import torch

    torch.set_num_threads(1)
    if words.what == "train":
        return train(words)
    from importlib.metadata import version

    from metatomic.torch import load_atomistic_model

    model = load_atomistic_model("model.pt")
    if words.what == "times":
        return [*timed(model, words, False), *timed(model, words, True)]
    if words.what == "errors":
        names = ("flashmd", "metatrain", "metatomic-torch", "metatensor-torch", "torch", "ase")
        pairs = np.load(words.pairs)
        found = {"errors": one_stride(model, pairs), "free flight": one_stride(None, pairs)}
        return found | {"versions": {name: version(name) for name in names}}
    return [drive(model, words, ensemble, rescale) for ensemble in ENSEMBLES for rescale in (False, True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "errors", "runs", "times"])
    for name in ("size", "answer", "pairs", "student", "begin"):
        parser.add_argument(f"--{name}")
    for name, kind in (("minutes", float), ("batch", int), ("temperature", float), ("strides", int)):
        parser.add_argument(f"--{name}", type=kind)
    words = parser.parse_args()
    Path(words.answer).write_text(json.dumps(answer(words)))


if __name__ == "__main__":
    main()

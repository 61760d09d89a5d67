r"""FlashMD (network of metatrain, integrators of the package flashmd) trained on our pairs, then driven by its own integrators.

For each size of the network: errors of one stride on held-out pairs; mean temperatures of NVE, Langevin and Bussi runs with
and without its energy rescale, overall and of each element; µs per atom and stride on one thread. The student that made the
pairs runs beside it by velocity Verlet, from the same state, and gives the energies of the rescale: FlashMD's integrators
take them from any ASE calculator, no metatomic model of the student is needed.

    error of p = rms((p' − P')/√m) / rms(P'/√m)      q', p': the network's, centre of mass corrected by FlashMD's own stepper
    error of q = rms(√m (q' − Q')/Δt) / rms(P'/√m)   Q', P': the pair's    m: masses    Δt: stride

Training is metatrain's own (`train_model`: Adam, cosine, random rotations, best epoch by validation kept), for as many epochs
as fit `--minutes` by the time that epochs take on a few pairs; minutes are processor time of one thread, which is wall time
where nothing else runs. Validation pairs are every 20th of the training pairs, never held-out ones.

Free flight (q' = q + pΔt/m, p' = p) stands beside the errors of one stride. In a run a temperature is Σ p²/m over
3(1 − m_i/M) degrees of freedom of each atom, the run's first fifth left out; ΔT is from the thermostat's temperature, in NVE
from the mean of the student's own run. FlashMD's units are ASE's: momenta in √(eV u) = p[u Å/fs]/ase.units.fs; kinetic
energies of every pair are compared in both units before training. Runs have ASE's FixCom, without which FlashMD's Bussi
thermostat counts 3N degrees of freedom in place of 3N − 3.

The peer's environment needs this package too, for the energies:

    pip install torch==2.13.0 flashmd==0.3.0 safetensors jaxtyping h5py tyro rich psutil jinja2 pymatgen kinisi
    (metatrain 2026.3.1, metatomic-torch 0.1.19, metatensor-torch 0.10.8 and ase 3.29.0 come with it)

    python -m benchmarks.studies.peer_flashmd --python PYTHON --segments FOLDER --start FILE.extxyz --student FILE.mdistill
        --folder FOLDER [--stride 16]
        [--minutes 10] [--sizes small default] [--batch 4] [--temperature 600] [--strides 2000] [--step 1.0]
        [--record NAME] [--train-only]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import ROOT, write_record
from benchmarks.studies.peer_flashmd_inside import SIZES, parts
from mdistill.io.files import sha256, write_json

SOURCE, INSIDE = ROOT.resolve() / "src", Path(__file__).resolve().parent / "peer_flashmd_inside.py"
DISCARDED = 0.2


def ask(words: argparse.Namespace, what: str, folder: Path, size: str) -> Any:
    """Answer of a task in the peer's environment; kept, and asked anew where it was of other settings or files."""
    kept, learned = folder / size / f"{what}.json", ("minutes", "batch")
    given = {name: getattr(words, name) for name in (*learned, *(() if what == "train" else ("temperature", "strides")))}
    files = {"pairs": words.pairs} | ({} if what == "train" else {"student": words.student, "begin": folder / "begin.npz"})
    asked = given | {name: sha256(Path(path)) for name, path in files.items()}
    if kept.is_file() and (known := json.loads(kept.read_text())).get("asked") == asked:
        return known["answer"]
    kept.parent.mkdir(parents=True, exist_ok=True)
    fresh = kept.with_suffix(".answer")
    flags = [f"--{name}={value}" for name, value in given.items()]
    flags += [f"--{name}={Path(path).resolve()}" for name, path in files.items()]
    command = [words.python, str(INSIDE), what, f"--size={size}", f"--answer={fresh}", *flags]
    more = {"OMP_NUM_THREADS": "1", "MDISTILL_QUIET": "1", "PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "ignore"}
    with kept.with_suffix(".log").open("w") as log:
        status = subprocess.run(command, cwd=kept.parent, env=os.environ | more, stdout=log, stderr=log).returncode  # noqa: PLW1510
    if status:
        raise SystemExit(f"{what} of {size} ended with status {status}: see {log.name}")
    answer = json.loads(fresh.read_text())
    fresh.unlink()
    write_json(kept, {"asked": asked, "answer": answer})
    return answer


def write_pairs(segments: Path, stride_fs: float, path: Path, most: int) -> Path:
    """The windows that our own maps are taught and judged on, `most` of the first evenly chosen (metatrain holds 3 MB for each in
    memory), as one file of pairs; kept where it is there already."""
    from mdistill.data.segments import read_segments
    from mdistill.data.split import split_segments
    from mdistill.io.files import write_bytes
    from mdistill.training.settings import StrideSettings
    from mdistill.training.windows import windows_of

    if path.is_file():
        return path
    found = [segment for file in sorted(segments.glob("segments-*.npz")) for segment in read_segments(file)]
    train, apart = split_segments(found, held_out=StrideSettings().held_out)
    taught, judged = windows_of(train, stride_fs, every_fs=found[0].every_fs), windows_of(apart, stride_fs)
    taught = [taught[k] for k in np.unique(np.linspace(0, len(taught) - 1, most).round().astype(int))]
    windows, first = [*taught, *judged], taught[0].system
    buffer = io.BytesIO()
    np.savez(
        buffer, numbers=first.numbers.numpy(), masses=taught[0].masses.numpy(), cell=first.cell[0].numpy(), stride_fs=stride_fs,
        temperature=[w.temperature_K for w in windows], held_out=np.arange(len(windows)) >= len(taught),
        positions0=np.stack([w.system.positions.numpy() for w in windows]),
        momenta0=np.stack([w.momenta.numpy() for w in windows]),
        positions1=np.stack([w.positions_after[0].numpy() for w in windows]),
        momenta1=np.stack([w.momenta_after[0].numpy() for w in windows]),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return path


def begin_and_reference(words: argparse.Namespace, folder: Path, stride: float) -> tuple[list[list[float]], dict[str, Any]]:
    """An equilibrated state of the student (Langevin, 4 ps), kept for the peer; then its own NVE from there.

    Returns: temperatures after each stride, K, of all atoms and of each element; µs per atom and stride as a row.
    """
    import torch

    from mdistill.io.structures import read_system
    from mdistill.simulation.compiled import compile_propagator
    from mdistill.simulation.evaluator import make_evaluator
    from mdistill.simulation.initial_state import initial_state, without_drift
    from mdistill.simulation.kinetics import temperature
    from mdistill.simulation.langevin import Baoab
    from mdistill.simulation.rollout import Calling, rollout
    from mdistill.simulation.verlet import VelocityVerlet, evaluated
    from mdistill.teachers.models import load

    system = read_system(Path(words.start))
    evaluate, generator = make_evaluator(load(words.student), system), torch.Generator().manual_seed(5)
    state = evaluated(initial_state(system, temperature_K=words.temperature, generator=generator), evaluate)
    warm = Baoab(evaluate=evaluate, time_step=words.step, temperature_K=words.temperature, friction_per_ps=10.0)
    steps = round(4000 / words.step)
    state = without_drift(rollout(state, compile_propagator(warm, evaluate), steps=steps, generator=generator, leap=steps))
    np.savez(
        folder / "begin.npz", numbers=system.numbers.numpy(), masses=state.masses.numpy(), cell=system.cell[0].numpy(),
        positions0=state.system.positions.numpy()[None], momenta0=state.momenta.numpy()[None],
    )  # fmt: skip
    kinds, series, leap = (None, *sorted(set(system.numbers.tolist()))), list[list[float]](), round(stride / words.step)
    if abs(leap * words.step - stride) > 1e-9:
        raise SystemExit(f"--step {words.step} fs: the stride of the pairs, {stride} fs, is no multiple of it")
    keep = Calling(lambda _, now: series.append([float(temperature(now, element=z)[0]) for z in kinds]), every=leap)
    free, state = (
        compile_propagator(VelocityVerlet(evaluate=evaluate, time_step=words.step), evaluate),
        evaluated(state, evaluate),
    )
    rollout(state, free, steps=words.strides * leap, generator=generator, observers=[keep], leap=leap)
    begun, before, atom = time.perf_counter(), time.process_time(), 1e6 / (200 * system.n_atoms)
    rollout(state, free, steps=200 * leap, generator=generator, leap=200 * leap)
    wall, work = time.perf_counter() - begun, time.process_time() - before
    times = {"us_per_atom_stride": atom * wall, "processor us_per_atom_stride": atom * work}
    return series, {"what": "time", "atoms": system.n_atoms} | times


def run_row(series: list[list[float]], names: list[str], target: float | None) -> dict[str, Any]:
    """Mean temperatures of a run with errors, and their deviation from a target."""
    from mdistill.estimates import mean_of

    values = np.array(series)[int(DISCARDED * len(series)) :]
    row: dict[str, Any] = {"strides": len(series)}
    if len(values) < 50:
        return row
    for k, name in enumerate(names):
        mean = mean_of(values[:, k], unit="K")
        row |= {f"T {name} (K)": mean.value, f"± {name}": mean.error}
        if target is not None:
            row[f"ΔT {name} (K)"] = mean.value - target
    return row


def measure(words: argparse.Namespace) -> None:

    folder = words.folder.resolve()
    words.pairs = write_pairs(words.segments, words.stride, folder / f"pairs-{words.most}.npz", words.most)
    pairs = np.load(words.pairs)
    folder.mkdir(parents=True, exist_ok=True)
    made = {size: ask(words, "train", folder, size) for size in words.sizes}
    if words.train_only:
        return
    names = list(parts(pairs["numbers"]))
    series, times = begin_and_reference(words, folder, float(pairs["stride_fs"]))
    reference = run_row(series, names, None)
    title = {"model": f"student, velocity Verlet {words.step:g} fs"}
    rows: list[dict[str, Any]] = [title | {"what": "NVE"} | reference, title | times]
    versions: dict[str, str] = {}
    for size, spent in made.items():
        title = {"model": f"FlashMD {size}, {spent['parameters']:,} parameters"}
        rows.append(title | {"what": "training"} | {name: spent[name] for name in spent if name != "last"})
        found = ask(words, "errors", folder, size)
        versions, free = found["versions"], {"model": "free flight, no network", "what": "one stride"}
        rows += [free | row for row in found["free flight"] if size == words.sizes[0]]
        rows += [title | {"what": "one stride"} | row for row in found["errors"]]
        for run in ask(words, "runs", folder, size):
            target = reference.get("T all (K)") if run["ensemble"] == "NVE" else words.temperature
            head = {"what": run["ensemble"], "rescale": run["rescale"], "ended": run["ended"]}
            rows.append(title | head | run_row(run["temperatures"], names, target))
        rows += [title | {"what": "time"} | row for row in ask(words, "times", folder, size)]
    given = {name: getattr(words, name) for name in ("minutes", "sizes", "batch", "temperature", "strides", "step", "most")}
    files = {name: Path(getattr(words, name)).name for name in ("start", "student")}
    settings = given | files | {"stride_fs": float(pairs["stride_fs"]), "networks": SIZES, "versions": versions}
    write_record(words.record, settings, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("python", "start", "student"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--segments", type=Path, help="of the student, as `mdistill train stride` leaves them")
    parser.add_argument("--stride", type=float, default=16.0, help="fs")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--most", type=int, default=1500, help="pairs taught")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=600.0)
    parser.add_argument("--strides", type=int, default=2000)
    parser.add_argument("--step", type=float, default=1.0, help="of the student's velocity Verlet, fs")
    parser.add_argument("--record", default="peer_flashmd")
    parser.add_argument("--train-only", action="store_true")
    measure(parser.parse_args())


if __name__ == "__main__":
    main()

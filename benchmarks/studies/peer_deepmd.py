"""DeePMD-kit 3.2.0 on Li6PS5Cl: trained on our labels, then timed; run with a Python that has it, prints JSON.

FOLDER/data holds what `export_deepmd` of student_speed.py wrote: DeePMD's npy format, the same frames for training and
the same held out. Two potentials, trained on one thread, 12,000 frames seen by each, our cutoff (4.9 Å):

- DPA4C (`dp --pt-expt`) with the settings of DeePMD-kit's own example for water (32 channels, l ≤ 2, 4 radial modes),
  frozen to a compiled archive (AOTInductor); where `dp freeze` fails, evaluated from its checkpoint in torch. Release
  3.2.0 has the compressed DPA4C for CUDA only, the CPU operators are later than it: this is not the fused CPU code whose
  0.137 µs/edge is published.
- se_e2_a (`dp --pt`), energy network of 3 × 64, frozen and compressed (tabulated embedding).

A time is one `DeepPot.eval`: energy, forces, virial and the search for neighbours, through Python. Training is done once
and kept in FOLDER; what could not be made is said in FOLDER/<model>/deployed.json. The wheel on PyPI is built against
torch 2.11; with another torch DeePMD-kit must be built from its source (DP_ENABLE_TENSORFLOW=0 pip install --no-binary
deepmd-kit --no-build-isolation deepmd-kit==3.2.0). Also needed: ase, vesin-torch, mpich, e3nn.

    PYTHON_WITH_DEEPMD benchmarks/studies/peer_deepmd.py FOLDER STRUCTURE [--steps 3000] [--repeats 1 2 4] [--train-only]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

CUTOFF, BATCH, UNCOUNTED, TYPES = 4.9, 4, 10, ["Li", "P", "S", "Cl"]
NAMES = {"dpa4c": "DPA4C", "se_e2_a": "se_e2_a"}
BACKEND = {"dpa4c": "--pt-expt", "se_e2_a": "--pt"}


def training_input(name: str, steps: int) -> dict[str, Any]:
    """What `dp train` is given; loss, optimizer and schedule are those of DeePMD-kit's own examples, the schedule shortened."""
    training = {
        "training_data": {"systems": ["../data/train"], "batch_size": BATCH},
        "numb_steps": steps, "save_freq": max(steps // 6, 1), "max_ckpt_keep": 2, "disp_freq": 100, "seed": 1,
    }  # fmt: skip
    if name == "dpa4c":
        descriptor = {
            "type": "dpa4c", "rcut": CUTOFF, "channels": 32, "lmax": 2, "basis_type": "bessel", "n_radial": 16,
            "radial_modes": 4, "precision": "float32", "seed": 1,
        }  # fmt: skip
        fitting = {"neuron": [192] * 3, "resnet_dt": False, "activation_function": "silu", "precision": "float32", "seed": 1}
        prefactors = {f"{when}_pref_{what}": w for what, w in (("e", 20), ("f", 20), ("v", 5)) for when in ("start", "limit")}
        return {
            "model": {"type_map": TYPES, "descriptor": descriptor, "fitting_net": fitting},
            "learning_rate": {
                "type": "wsd", "start_lr": 1e-3, "stop_lr": 1e-6, "warmup_ratio": 0.003, "warmup_start_factor": 0.2,
                "decay_phase_ratio": 0.2, "decay_type": "inverse_linear",
            },
            "loss": {"type": "ener", "loss_func": "mae", "f_use_norm": True} | prefactors,
            "optimizer": {"type": "HybridMuon", "weight_decay": 0.001},
            "training": training | {"gradient_max_norm": 5.0, "enable_compile": False},
        }  # fmt: skip
    descriptor = {
        "type": "se_e2_a", "rcut": CUTOFF, "rcut_smth": 0.5, "sel": "auto", "neuron": [25, 50, 100], "axis_neuron": 16,
        "resnet_dt": False, "activation_function": "tanh", "precision": "float32", "seed": 1,
    }  # fmt: skip
    fitting = {"neuron": [64] * 3, "resnet_dt": True, "activation_function": "tanh", "precision": "float32", "seed": 1}
    return {
        "model": {"type_map": TYPES, "descriptor": descriptor, "fitting_net": fitting},
        "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 1e-6, "decay_steps": max(steps // 150, 1)},
        "loss": {
            "type": "ener", "start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1,
            "start_pref_v": 0.02, "limit_pref_v": 1,
        },
        "training": training,
    }  # fmt: skip


def environment(threads: int) -> dict[str, str]:
    """Threads as DeePMD-kit reads them, and its commands on the path."""
    count = str(threads)
    return os.environ | {
        "OMP_NUM_THREADS": count, "DP_INTRA_OP_PARALLELISM_THREADS": count, "DP_INTER_OP_PARALLELISM_THREADS": "1",
        "DEVICE": "cpu", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip


def dp(name: str, folder: Path, *words: str, threads: int = 1, **more: str) -> str:
    """Run one `dp` command in the model's folder; its log is kept. The empty string, or what failed in one line."""
    log = folder / f"{words[0]}.log"
    with log.open("w") as out:
        command = ["dp", BACKEND[name], *words]
        status = subprocess.run(command, cwd=folder, env=environment(threads) | more, stdout=out, stderr=out).returncode  # noqa: PLW1510
    errors = [line.strip() for line in log.read_text(errors="replace").splitlines() if "rror: " in line]
    return "" if status == 0 else " | ".join(errors[:2])[:400] or f"dp {words[0]} ended with status {status}"


def train(name: str, folder: Path, steps: int) -> None:
    """Train and deploy one model unless that was done; writes deployed.json last."""
    if (folder / "deployed.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "input.json").write_text(json.dumps(training_input(name, steps), indent=1))
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    failed = dp(name, folder, "train", "input.json", *(["--skip-neighbor-stat"] if name == "dpa4c" else []))
    if failed:
        raise SystemExit(f"dp train failed, see {folder / 'train.log'}: {failed}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    deploy(name, folder, {"minutes": (time.monotonic() - begun) / 60.0, "cpu_minutes": cpu / 60.0, "steps": steps})


def deploy(name: str, folder: Path, facts: dict[str, Any]) -> None:
    """The fastest form of the trained model that this machine can make, its held-out errors, and what failed on the way."""
    if name == "dpa4c":
        words = ["freeze", "-c", "model.ckpt.pt", "-o", "frozen.pt2", "--lower-kind", "graph"]
        # With one thread at the freeze the archive would be compiled for one thread for good.
        failed = {"freeze": dp(name, folder, *words, threads=2, TORCHINDUCTOR_CPP_DYNAMIC_THREADS="1")}
        forms = [("freeze", "frozen.pt2", "AOTInductor")]
    else:
        failed = {"freeze": dp(name, folder, "freeze", "-c", "model.ckpt.pt", "-o", "frozen.pth")}
        failed["compress"] = dp(name, folder, "compress", "-i", "frozen.pth", "-o", "compressed.pth")
        forms = [("compress", "compressed.pth", "compressed"), ("freeze", "frozen.pth", "frozen")]
    file, form = next(((file, form) for step, file, form in forms if not failed[step]), ("model.ckpt.pt", "in torch"))
    errors = ask(folder, file, 1, ["errors", str(folder.parent / "data")])
    failed = {step: why for step, why in failed.items() if why}
    written = {"file": file, "form": form, "failed": failed, "training": facts, "errors": errors}
    (folder / "deployed.json").write_text(json.dumps(written, indent=1))


def ask(folder: Path, file: str, threads: int, words: list[str]) -> Any:
    """Answer of a fresh process of this script (threads are fixed at its start)."""
    command = [sys.executable, __file__, "--inside", str(folder / file), str(threads), *words]
    done = subprocess.run(command, env=environment(threads), capture_output=True, text=True)  # noqa: PLW1510
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def inside(model: str, threads: int, what: str, words: list[str]) -> Any:
    """Load a deployed model with some threads and either compare it with the held-out labels or time it."""
    import torch
    from deepmd.infer import DeepPot

    torch.set_num_threads(threads)
    potential = DeepPot(model)
    return (
        held_out_errors(potential, Path(words[0]))
        if what == "errors"
        else timed(potential, words[0], [int(w) for w in words[1:]])
    )


def held_out_errors(potential: Any, data: Path) -> dict[str, float]:
    """Mean absolute errors of forces (over components) and of the energy per atom, by temperature."""
    errors: dict[str, float] = {}
    for folder in sorted(data.glob("held-out-*K")):
        arrays = {name: np.load(folder / "set.000" / f"{name}.npy") for name in ("coord", "box", "energy", "force")}
        types = np.loadtxt(folder / "type.raw", dtype=int)
        found = [potential.eval(x[None], c[None], types)[:2] for x, c in zip(arrays["coord"], arrays["box"], strict=True)]
        energy, force = (np.concatenate([np.reshape(pair[k], (1, -1)) for pair in found]) for k in (0, 1))
        label = folder.name.removeprefix("held-out-").removesuffix("K") + " K"
        errors[f"force MAE {label} (meV/Å)"] = 1e3 * float(np.abs(force - arrays["force"]).mean())
        errors[f"energy MAE {label} (meV/atom)"] = 1e3 * float(np.abs(energy - arrays["energy"]).mean()) / len(types)
    return errors


def timed(potential: Any, structure: str, repeats: list[int]) -> list[dict[str, Any]]:
    """Median time of a call on slightly moving atoms; edges are counted within the cutoff by ase, both directions."""
    from ase.io import read
    from ase.neighborlist import neighbor_list

    rows, rng = [], np.random.default_rng(0)
    for repeat in repeats:
        atoms = read(structure).repeat(repeat)
        types = [TYPES.index(symbol) for symbol in atoms.get_chemical_symbols()]
        cell, n, times, work = atoms.cell.array.reshape(1, 9), len(atoms), [], []
        for _ in range(UNCOUNTED + 9):
            positions = atoms.positions + rng.normal(scale=0.02, size=(n, 3))
            begun, before = time.perf_counter(), time.process_time()
            potential.eval(positions.reshape(1, -1), cell, types)
            times.append(time.perf_counter() - begun)
            work.append(time.process_time() - before)
        kept, edges = times[UNCOUNTED:], len(neighbor_list("i", atoms, CUTOFF))
        middle, processor = statistics.median(kept), statistics.median(work[UNCOUNTED:])
        rows.append(
            {
                "atoms": n, "us_per_atom": 1e6 * middle / n, "us_per_edge": 1e6 * middle / edges,
                "spread (%)": 100.0 * statistics.pstdev(kept) / middle, "processor us_per_atom": 1e6 * processor / n,
                "edges per atom": edges / n,
            }
        )  # fmt: skip
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        model, threads, what, *words = sys.argv[2:]
        print(json.dumps(inside(model, int(threads), what, words)))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("structure", type=Path)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--repeats", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--train-only", action="store_true")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, title in NAMES.items():
        folder = given.folder.resolve() / name
        train(name, folder, given.steps)
        if given.train_only:
            continue
        made = json.loads((folder / "deployed.json").read_text())
        for threads in (1, 2):
            words = ["times", str(given.structure.resolve()), *map(str, given.repeats)]
            for row in ask(folder, made["file"], threads, words):
                rows.append({"model": f"{title} (DeePMD-kit), {made['form']}", "threads": threads} | row | made["errors"])
    print(json.dumps(rows))


if __name__ == "__main__":
    main()

"""How many DFT labels a student needs: error against their number, for soft-then-hard training and for others.

Case lips: Li27P12S44 (83 atoms), PBE molecular dynamics at 520 K: 100 frames are the pool of hard labels, 100 others the test.
Published with all of them hard: NequIP 142 and 36.8 meV/Å (force RMSE) with 10 and 100 frames. Case lips20: Li7P3S11 (84 atoms),
PBE-like; the test frames come after those of the pool. Case water: 64 H2O, 100 frames by revPBE0-D3 of various densities: those
of even number are the pool, the others the test. Case glycol: 140 structures of ethylene glycol by PySCF, PBE0-D3BJ/def2-SVP.
Soft labels: SevenNet-0 (glycol: GFN2-xTB, which cannot be tuned) on its own dynamics at two temperatures from the first structure
of the pool, on strained, rattled and compressed cells, and on the structures of the pool (without their DFT labels).

Methods: ours (corrected soft labels, then fine-tuning with the defaults of `HardFitSettings`; labels selected by farthest points
in the student's invariants), hard labels only (random, selected), element offsets only, and the teacher corrected by the
difference (selected), which is as slow as the teacher. Ours sees every hard label `PASSES` times. A fit of hard labels alone has
as many steps, and at least those of the fit on soft labels. "tuned teacher": the teacher trained further on the selected labels
(`hardening.tune`, its defaults). "ours, tuned teacher": the student of its labels of the soft frames and of OWN frames of the
student's MD. Every fit is stored, so an interrupted benchmark resumes; rows of the record that are not made again stay.

    python -m benchmarks.hard_targets [--case lips] [--runs FOLDER] [--seeds 3] [--methods ours ...] [--most-minutes 30]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.record import RESULTS, ROOT, recorded, write_record
from benchmarks.student_accuracy import LABEL
from mdistill.analysis.reweighting import force_slope
from mdistill.closed_form.delta import Delta, fit_delta, load_delta, offsets
from mdistill.data.descriptors import invariants_of
from mdistill.data.select_frames import select
from mdistill.data.store import LabelStore
from mdistill.direct.generate import generate
from mdistill.direct.molecules import parsed
from mdistill.direct.settings import MoleculeSettings
from mdistill.direct.shards import read_shards
from mdistill.graph import make_system
from mdistill.hardening.harden import first_offsets
from mdistill.hardening.refine import Rounds, own_frames
from mdistill.hardening.settings import RefineSettings, TuneSettings
from mdistill.hardening.tune import RELABELLED, TUNED, Tuned, labelled_again, load_tuning, tune
from mdistill.interrupt import NEVER
from mdistill.io.files import replacing, write_json
from mdistill.labelling.engine import Failure
from mdistill.labelling.import_labels import import_labels
from mdistill.labelling.label import label_run, label_structures
from mdistill.labelling.molecular_dft import MolecularDft
from mdistill.labelling.settings import LabelSettings
from mdistill.nets.model_files import load_model, load_net
from mdistill.teachers import load_teacher
from mdistill.teachers.models import load
from mdistill.teachers.tuned import save_tuned
from mdistill.training.hard_targets import fine_tune, share_of
from mdistill.training.potential import MODEL, TrainingResult, evaluate, train_potential
from mdistill.training.settings import FitSettings, HardFitSettings, TrainSettings
from mdistill.types import LabelledFrame, Prediction

COUNTS = (5, 10, 30, 100)
METHODS = (
    "ours", "hard only, random", "hard only, selected", "teacher + difference", "offsets only", "ours, tuned teacher",
    "tuned teacher",
)  # fmt: skip
SOFT = replace(
    LABEL, temperatures_K=(520.0, 900.0), frames=50, blocks=5, every_fs=16.0, equilibration_fs=200.0, contacts=16, probe_every=4,
    max_frames=100_000,
)  # fmt: skip
MOLECULE = replace(SOFT, temperatures_K=(300.0, 600.0), frames=100, time_step_fs=0.5, every_fs=8.0, displaced=0)
GLYCOL = MoleculeSettings(structures=140, per_molecule=140, dynamics=3)
WATER = replace(SOFT, temperatures_K=(300.0, 450.0), time_step_fs=0.5, displaced=0)
TRAIN = TrainSettings(held_out=0.1, fit=FitSettings(steps=600, batch_size=4))
PASSES = 120
OWN, TUNED_STEPS, SHARE_OF_TUNED = 300, 3000, 0.2
"""Of the student of a tuned teacher: frames of its MD at each temperature, steps of the fit, share of hard labels."""
PEERS = {"NequIP, hard only": [(10, 142.0), (100, 36.8)]}


def lips(data: Path, home: Path) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Pool and test of Li27P12S44."""
    del home
    return _frames(data / "li6p75s_lips" / "train_100.npz"), _frames(data / "li6p75s_lips" / "validate_100.npz")


def lips20(data: Path, home: Path) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Pool and test of Li7P3S11: of the first and of the last 450 of 1,000 frames that follow one another, 2 to 3 fs apart."""
    del home
    path = data / "lips20" / "Li7P3S11.npz"
    return _frames(path, slice(0, 450, 4))[:100], _frames(path, slice(550, 1000, 4))[:100]


def water(data: Path, home: Path) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Pool and test of water."""
    del home
    frames = import_labels(data / "water" / "revpbe0d3" / "train_100.xyz", hold_out=False).frames
    frames = [replace(frame, source="hard", block=k) for k, frame in enumerate(frames)]
    return frames[::2], frames[1::2]


def glycol(data: Path, home: Path) -> tuple[list[LabelledFrame], list[LabelledFrame]]:
    """Pool and test of ethylene glycol: conformers, turned bonds, normal modes and dynamics by GFN2-xTB, labelled here."""
    del data
    molecule, engine = parsed("OCCO"), MolecularDft()
    assert molecule is not None
    generate(GLYCOL, home / "structures", seed=5, workers=1, listed=[molecule])
    frames = read_shards(home / "structures")
    (home / "hard").mkdir(exist_ok=True)
    for k in np.random.default_rng(0).permutation(len(frames)):
        path, system = home / "hard" / f"{k:03d}.npz", frames[k].system
        if path.is_file():
            continue
        answer = engine.label(system, home / "hard")
        if isinstance(answer, Failure):
            raise SystemExit(f"{path}: {answer.reason}")
        with replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(
                file, numbers=system.numbers, positions=system.positions, energy=answer.prediction.energy,
                forces=answer.prediction.forces,
            )  # fmt: skip
    labelled = []
    for path in sorted((home / "hard").glob("*.npz")):
        with np.load(path) as kept:
            system = make_system(kept["positions"], kept["numbers"], np.zeros((3, 3)), [False] * 3)
            target = Prediction(energy=torch.from_numpy(kept["energy"]), forces=torch.from_numpy(kept["forces"]))
            labelled.append(LabelledFrame(system=system, source="hard", block=len(labelled), target=target))
    order = np.random.default_rng(1).permutation(len(labelled)).tolist()
    return [labelled[k] for k in order[:100]], [labelled[k] for k in order[100:]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Hard labels and what teaches the student before them.

    Attributes:
        read: Folder of the data, folder of the fits → pool and test.
        label: Soft labels.
        elements: Their atomic numbers.
        peers: Published errors: {name: [(labels, meV/Å)]}.
        teacher: Its name.
    """

    read: Callable[[Path, Path], tuple[list[LabelledFrame], list[LabelledFrame]]]
    label: LabelSettings
    elements: tuple[int, ...]
    peers: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    teacher: str = "sevennet-0"


CASES = {
    "lips": Case(read=lips, label=SOFT, elements=(3, 15, 16), peers=PEERS),
    "lips20": Case(read=lips20, label=SOFT, elements=(3, 15, 16)),
    "glycol": Case(read=glycol, label=MOLECULE, elements=(1, 6, 8), teacher="gfn2-xtb"),
    "water": Case(read=water, label=WATER, elements=(1, 8)),
}


class Bench:
    """The data, and fits that are stored by name."""

    def __init__(self, home: Path, case: str = "lips") -> None:
        self.home, self.case = home, CASES[case]
        self.label, self.elements = self.case.label, self.case.elements
        self.pool, self.test = self.case.read(Path(os.environ["MDISTILL_DATA"]), home)
        label_run_if_new(home, self.case, self.pool, self.test)
        self.soft_pool, self.soft_test = (LabelStore(home / name).read() for name in ("pool", "validate"))
        own = LabelStore(home / "soft").read()
        self.soft = own + [replace(frame, block=1000 + k // 10) for k, frame in enumerate(self.soft_pool)]
        self.held = [max(frame.block for frame in self.soft)]

    def student(self) -> Path:
        folder = self.home / "fit" / "soft"
        made = (folder / MODEL).is_file()
        return folder / MODEL if made else train_potential(self.soft, TRAIN, folder, held_blocks=self.held).path

    def chosen(self, method: str, count: int, seed: int) -> list[int]:
        """Random frames; or selected ones of a random 80 % of the pool, so that seeds differ."""
        order = np.random.default_rng(seed).permutation(len(self.pool)).tolist()
        if "random" in method or count == len(self.pool):
            return order[:count]
        share = order[: max(count, 80)]
        systems = [self.pool[k].system for k in share]
        return [share[k] for k in select(systems, [], count, floor=0.0, describe=invariants_of(load_net(self.student())))]

    def delta(self, indices: Sequence[int]) -> Delta:
        """The difference of DFT and teacher from these frames of the pool; stored."""
        name = hashlib.sha256(repr(sorted(indices)).encode()).hexdigest()[:16]
        path = self.home / "delta" / f"{name}.mdistill"
        if not path.is_file():
            answers = [self.soft_pool[k].target for k in indices]
            fit_delta([self.pool[k] for k in indices], answers, TRAIN, around=self.soft).save(path)
        return load_delta(path)

    def fitted(self, indices: Sequence[int], method: str, seed: int) -> TrainingResult:
        """A student of these hard labels, after soft ones or alone."""
        count, how, hard = len(indices), HardFitSettings(), [self.pool[k] for k in indices]
        folder = self.home / "fit" / f"{method.replace(', ', '-').replace(' ', '-')}-{count}-{seed}"
        steps = round(PASSES * count / share_of(count, how) / TRAIN.fit.batch_size)
        if method.startswith("hard only"):
            train = replace(TRAIN, fit=replace(TRAIN.fit, seed=seed, steps=max(steps, TRAIN.fit.steps)))
            blocks = [replace(frame, block=k) for k, frame in enumerate(hard)]
            watched = [frame for frame in self.soft if frame.block in self.held]  # needed, and without influence on the fit
            return train_potential([*blocks, *watched], train, folder, held_blocks=self.held)
        train, soft, correction = replace(TRAIN, fit=replace(TRAIN.fit, seed=seed)), self.soft, self.delta(indices)
        how = replace(how, time=steps / TRAIN.fit.steps)
        if "tuned" in method:
            soft, correction = [*self.soft, *self.own(seed)], self.tuned(indices, seed)
            correction = labelled_again(soft, correction, self.at(indices, seed) / RELABELLED)
            how = replace(how, time=TUNED_STEPS / TRAIN.fit.steps, share=SHARE_OF_TUNED)
        return fine_tune(
            self.student(), [correction.corrected(frame) for frame in soft], hard, train, how, folder=folder,
            references=first_offsets(self.student(), hard, correction.softening, folder), softening=correction.softening,
            held_blocks=self.held,
        )  # fmt: skip

    def at(self, indices: Sequence[int], seed: int) -> Path:
        """Folder of a tuned teacher."""
        return self.home / "tuned" / f"{len(indices)}-{seed}"

    def tuned(self, indices: Sequence[int], seed: int) -> Tuned:
        """The teacher trained further on these frames of the pool; stored."""
        folder = self.at(indices, seed)
        if not (folder / TUNED).is_file():
            folder.mkdir(parents=True, exist_ok=True)
            hard = [self.pool[k] for k in indices]
            net = tune(load_teacher(self.case.teacher), hard, TuneSettings(), folder / "teacher", seed=seed)
            save_tuned(folder / TUNED, net, {"labels": len(hard)})
        return load_tuning(folder / TUNED)

    def own(self, seed: int) -> list[LabelledFrame]:
        """Frames of MD of the student of soft labels, without labels yet."""
        rounds = Rounds(
            systems=[self.pool[0].system], teacher=load_teacher(self.case.teacher), temperatures_K=self.label.temperatures_K,
            settings=RefineSettings(time_ps=0.08 * OWN, every_fs=80.0, frames=OWN), label=self.label, train=TRAIN, seed=seed,
        )  # fmt: skip
        frames, student = list[LabelledFrame](), load(self.student(), precision="float32")
        for number, kelvin in enumerate(rounds.temperatures_K):
            found, _ = own_frames(rounds, 1, 0, kelvin, student=student, home=self.home / f"md-{seed}", stop=NEVER)
            for k, system in enumerate(found[1:]):
                block, zero = 2000 + 100 * number + 10 * k // OWN, torch.zeros(1, dtype=torch.float64)
                target = Prediction(energy=zero, forces=torch.zeros_like(system.positions), stress=torch.zeros(1, 3, 3).double())
                frames.append(LabelledFrame(system=system, target=target, source="md", block=block, temperature_K=kelvin))
        return frames

    def row(self, method: str, count: int, seed: int) -> dict[str, Any]:
        """Errors of a method; stored."""
        path = self.home / "rows" / f"{method}-{count}-{seed}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        begin, indices = time.process_time(), self.chosen(method, count, seed)
        hard = [self.pool[k] for k in indices]
        row: dict[str, Any] = {"method": method, "labels": count, "seed": seed}
        if method == "offsets only":
            plain = load_model(self.student())
            shift = offsets(hard, evaluate(plain, hard), self.elements) if hard else torch.zeros(len(self.elements))
            pairs = zip(evaluate(plain, self.test), self.test, strict=True)
            given = [_shifted(p, f, shift, self.elements) for p, f in pairs]
        elif method == "teacher + difference":
            delta = self.delta(indices)
            given = [delta.of(frame.target, frame.system) for frame in self.soft_test]
        elif method == "tuned teacher":
            given = [self.tuned(indices, seed).of(frame.target, frame.system) for frame in self.test]
        else:
            result = self.fitted(indices, method, seed)
            student = load_model(result.path)
            given, own = evaluate(student, self.test), errors(evaluate(student, hard), hard, "own labels")
            row |= {"steps": result.steps} | {name: value for name, value in own.items() if "RMSE" in name}
        row |= errors(given, self.test, "DFT") | {"CPU s": round(time.process_time() - begin, 1)}
        write_json(path, row)
        print(row, flush=True)
        return row


def _frames(path: Path, chosen: slice = slice(None)) -> list[LabelledFrame]:
    arrays = np.load(path)
    count = len(arrays["energy"])
    cells = np.broadcast_to(arrays["cell"], (count, 3, 3))
    parts = (arrays["positions"], cells, arrays["energy"], arrays["forces"])
    return [
        LabelledFrame(
            system=make_system(r.astype(float), arrays["numbers"], cell.astype(float), [True] * 3), source="hard", block=k,
            target=Prediction(energy=torch.tensor([float(e)], dtype=torch.float64), forces=torch.from_numpy(f).double()),
        )
        for k, (r, cell, e, f) in enumerate(zip(*(part[chosen] for part in parts), strict=True))
    ]  # fmt: skip


def label_run_if_new(
    home: Path, case: Case, pool: Sequence[LabelledFrame], test: Sequence[LabelledFrame]
) -> None:  # fmt: skip
    """The teacher's labels of its own dynamics, of the pool and of the test."""
    if (home / "labelled.json").is_file():
        return
    teacher = load_teacher(case.teacher)
    for name, frames in (("pool", pool), ("validate", test)):
        systems, plain = [frame.system for frame in frames], replace(case.label, probes=0)
        label_structures(systems, teacher, LabelStore(home / name), name=name, settings=plain, source=name)
    label_run([pool[0].system], teacher, case.label, home / "soft")
    write_json(home / "labelled.json", {"teacher": case.teacher})


def errors(answers: Sequence[Prediction], labels: Sequence[LabelledFrame], against: str) -> dict[str, float | None]:
    """Force RMSE and MAE (meV/Å), energy MAE (meV/atom), and the slope of the answers' forces against the labels'."""
    wrong = torch.cat([(p.forces - f.target.forces).flatten() for p, f in zip(answers, labels, strict=True)])
    energy = [float(p.energy - f.target.energy) / f.system.n_atoms for p, f in zip(answers, labels, strict=True)]
    slope = force_slope([f.target.forces.numpy() for f in labels], [p.forces.double().numpy() for p in answers])[0]
    return {
        f"force RMSE to {against} (meV/Å)": 1e3 * float(wrong.square().mean().sqrt()),
        f"force MAE to {against} (meV/Å)": 1e3 * float(wrong.abs().mean()),
        f"energy MAE to {against} (meV/atom)": 1e3 * float(np.abs(energy).mean()),
        f"slope to {against}": slope.value, "± (slope)": slope.error,
    }  # fmt: skip


def _shifted(prediction: Prediction, frame: LabelledFrame, shift: torch.Tensor, elements: Sequence[int]) -> Prediction:
    counts = torch.tensor([float((frame.system.numbers == z).sum()) for z in elements], dtype=torch.float64)
    return replace(prediction, energy=prediction.energy + counts @ shift.double())


def plot(rows: Sequence[dict[str, Any]], teacher: float, peers: dict[str, Any], path: Path) -> None:
    """Force RMSE against the number of labels: median of the seeds, with their range as bar."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    colours = ("#1b6ca8", "#c0392b", "#e08e0b", "#5d6d7e", "#7d3c98", "#117a65", "#45b39d")
    for method, marker, colour in zip(METHODS, "osD^xPv", colours, strict=True):
        mine = {
            n: [r["force RMSE to DFT (meV/Å)"] for r in rows if (r["method"], r["labels"]) == (method, n)] for n in (0, *COUNTS)
        }
        known = [(max(n, 2.5), float(np.median(v)), min(v), max(v)) for n, v in mine.items() if v]
        if known:
            x, y, least, most = np.array(known).T
            axes.errorbar(x, y, yerr=[y - least, most - y], marker=marker, color=colour, capsize=3, label=method, lw=1.5)
    for name, points in peers.items():
        axes.plot(*zip(*points, strict=True), marker="*", ls=":", color="black", label=f"{name} (published)")
    axes.axhline(teacher, color="grey", lw=1.0, ls="--", label="teacher")
    axes.set(xscale="log", yscale="log", xlabel="number of DFT labels (leftmost: none)", ylabel="force RMSE to DFT (meV/Å)")
    axes.set_xticks([2.5, *COUNTS], ["0", *map(str, COUNTS)])
    ticks = [40, 60, 80, 100, 150, 200, 300, 500, 700]
    axes.set_yticks(ticks, list(map(str, ticks)))
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False)
    figure.savefig(path)


def wanted(seeds: int, pool: int) -> list[tuple[str, int, int]]:
    """Method, number of labels and seed of the rows, in the order in which they are made: the last ones are missing first."""
    mine, random, selected, corrected, plain, taught, tuned = METHODS
    first = [(m, min(n, pool), 0) for n in (10, 100, 30, 5) for m in (tuned, taught, mine, random, corrected, plain)]
    few = [(m, n, s) for s in range(1, seeds) for n in (10, 30, 5) for m in (tuned, taught, mine, random, corrected)]
    many = [(m, pool, s) for s in range(1, seeds) for m in (random, mine)]
    return [(plain, 0, 0), *first, *few, *((selected, n, 0) for n in COUNTS[:3]), *many]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=[*CASES], default="lips")
    parser.add_argument("--runs", type=Path, help="folder of the fits (runs/hard-CASE)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--labels", nargs="+", type=int, help="numbers of labels (all)")
    parser.add_argument("--most-minutes", type=float, default=1e9, help="begin no further fit after this wall time")
    given = parser.parse_args()
    torch.set_num_threads(1)
    bench, rows = Bench(given.runs or ROOT / "runs" / f"hard-{given.case}", given.case), []
    begin = time.monotonic()
    for method, count, seed in wanted(given.seeds, len(bench.pool)):
        stored = (bench.home / "rows" / f"{method}-{count}-{seed}.json").is_file()
        if not stored and (method not in given.methods or (given.labels and count not in given.labels)):
            continue
        if stored or time.monotonic() - begin < 60.0 * given.most_minutes:
            rows.append(bench.row(method, count, seed))
    teacher = errors([frame.target for frame in bench.soft_test], bench.test, "DFT")
    first = evaluate(load_model(bench.student()), bench.test)
    apart = errors(first, bench.soft_test, "teacher")
    settings: dict[str, Any] = {"soft": bench.label, "train": TRAIN, "hard": HardFitSettings(), "passes over hard labels": PASSES}
    settings |= {"soft frames": len(bench.soft), "test frames": len(bench.test)}
    peers, name = bench.case.peers, "hard_targets" if given.case == "lips" else f"hard_targets_{given.case}"
    settings |= {"teacher to DFT": teacher, "student of soft labels to teacher": apart, "published": peers}
    made = {(row["method"], row["labels"], row["seed"]) for row in rows}
    rows = [row for row in recorded(name) if (row["method"], row["labels"], row["seed"]) not in made] + rows
    write_record(name, settings, rows)
    plot(rows, teacher["force RMSE to DFT (meV/Å)"], peers, RESULTS / f"{name}.svg")


if __name__ == "__main__":
    main()

"""A teacher trained further on hard labels: it comes nearer to them, its file, its labels, and the students taught by it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch

from mdistill import cli
from mdistill.data.store import LabelStore
from mdistill.derivatives import curvature_products
from mdistill.errors import BadInput, Interrupted
from mdistill.graph import build_graph, make_system
from mdistill.hardening.corrected import correction_file, load_correction, reference_of
from mdistill.hardening.hard_labels import write_labels
from mdistill.hardening.harden import Hardening, harden
from mdistill.hardening.refine import teacher_alone
from mdistill.hardening.settings import HardSettings, TuneSettings
from mdistill.hardening.tune import RELABELLED, TUNED, Tuned, labelled_again, tune
from mdistill.interrupt import StopRequest
from mdistill.io.structures import STRUCTURES, write_systems
from mdistill.labelling.engine import Answer
from mdistill.labelling.remembered import Remembered
from mdistill.labelling.settings import LabelSettings
from mdistill.nets.model_files import read_metadata
from mdistill.report.cards import card
from mdistill.runs.folder import keep_settings
from mdistill.teachers import load_teacher
from mdistill.teachers.models import load
from mdistill.teachers.tuned import TunedNet, load_tuned, save_tuned, to_tune
from mdistill.training.potential import evaluate, train_potential
from mdistill.training.settings import FitSettings, HardFitSettings, TrainSettings
from mdistill.types import LabelledFrame, Prediction, System
from mdistill.workflows.distill_settings import DistillSettings
from mdistill.workflows.stage_log import STEP_CALLS, tuning_calls

TRAIN = TrainSettings(cutoff=4.5, radial=4, degree=1, channels=4, hidden=8, held_out=0.25, fit=FitSettings(steps=60))
HARD = HardSettings(teacher="tuned", tune=TuneSettings(steps=24, passes=1), fit=HardFitSettings(time=0.5, test=0.25))
SIDE = 4.05


def crystals(count: int) -> list[System]:
    """Rattled NaCl-like cells of Li and Cl, 8 atoms."""
    generator = torch.Generator().manual_seed(3)
    grid = torch.tensor([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) * 2.6
    numbers = [3, 3, 3, 3, 17, 17, 17, 17]
    return [
        make_system(
            (grid + 0.15 * torch.randn(8, 3, generator=generator)).numpy(), numbers, torch.eye(3).numpy() * 5.2, [True] * 3
        )
        for _ in range(count)
    ]


class StopAt(StopRequest):
    """Pending from the n-th question on."""

    def __init__(self, moment: int) -> None:
        super().__init__()
        self.left = moment

    def pending(self) -> bool:
        self.left -= 1
        return self.left < 0


class Stiffer:
    """SevenNet-0 with forces 1.25 times as large and another zero of energy."""

    name, elements = "stiffer", frozenset[int]()

    def __init__(self) -> None:
        self.teacher = load_teacher("sevennet-0")

    def of(self, system: System) -> Prediction:
        given = self.teacher(build_graph(system, self.teacher.cutoff))
        return Prediction(energy=1.25 * given.energy + 3.0, forces=1.25 * given.forces)

    def label(self, system: System, folder: object, **_: object) -> Answer:
        return Answer(prediction=self.of(system))


def frames_of(systems: list[System], engine: Stiffer) -> list[LabelledFrame]:
    return [LabelledFrame(system=one, target=engine.of(one), source="hard", block=k) for k, one in enumerate(systems)]


def wrong(answers: list[Prediction], frames: list[LabelledFrame]) -> float:
    """Root mean square error of force components, eV/Å."""
    pairs = zip(answers, frames, strict=True)
    return float(torch.cat([(p.forces - f.target.forces).flatten() for p, f in pairs]).square().mean().sqrt())


@pytest.fixture(scope="module")
def engine() -> Stiffer:
    return Stiffer()


def test_a_few_labels_bring_the_teacher_nearer_on_other_structures(engine, tmp_path):
    hard, unseen = frames_of(crystals(4), engine), frames_of(crystals(8)[4:], engine)
    net = tune(engine.teacher, hard, HARD.tune, tmp_path)
    tuned, before = net.potential(), evaluate(engine.teacher, unseen)
    after = evaluate(tuned, unseen)
    assert wrong(after, unseen) < 0.6 * wrong(before, unseen)
    energies = [float(p.energy - f.target.energy) / 8 for p, f in zip(after, unseen, strict=True)]
    assert max(map(abs, energies)) < 0.05  # without the energies of elements: 0.4 eV/atom and more
    assert wrong(evaluate(engine.teacher, unseen), unseen) == wrong(before, unseen)  # the teacher is as it was


def test_the_file_gives_the_same_teacher_and_every_command_takes_it(engine, tmp_path, capsys):
    net = TunedNet(engine.teacher, torch.arange(120) * 0.01)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(1.01)
    path = tmp_path / TUNED
    save_tuned(path, net, {"labels": 4})
    system = crystals(1)[0]
    graph, made, read = build_graph(system, 5.0), net.potential(), load(path)
    assert torch.equal(made(graph).forces, read(graph).forces) and torch.equal(made(graph).energy, read(graph).energy)
    assert read.sha256 == made.sha256 != engine.teacher.net.sha256 and read.name == "sevennet-0, tuned"
    plain = replace_reference(net)
    assert float(read(graph).energy - plain(graph).energy) == pytest.approx(0.01 * (4 * 3 + 4 * 17), abs=1e-5)
    probes = torch.randn(1, 8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = [replace(system, positions=system.positions + sign * 1e-3 * probes[0]) for sign in (1.0, -1.0)]
    ahead, back = (read(build_graph(one, 5.0)).forces for one in moved)
    assert torch.allclose(curvature_products(read, system, probes)[0], (back - ahead) / 2e-3, atol=0.02)
    write_systems(tmp_path / "cell.extxyz", [system])
    words = [
        "simulate",
        str(tmp_path / "cell.extxyz"),
        "--potential",
        str(path),
        "--time-ps",
        "0.004",
        "--out",
        str(tmp_path / "md"),
    ]
    assert cli.run(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("told", [True, False])
def test_its_card_tells_teacher_labels_weights_and_cutoff(engine, told, tmp_path, capsys, monkeypatch):
    net, path = TunedNet(engine.teacher), tmp_path / TUNED
    if not told:  # by a file without the cutoff, or of another maker without labels
        monkeypatch.setattr("mdistill.teachers.tuned.json", Headers())
    digest = save_tuned(path, net, {"engine": "CP2K PBE", "labels": 17} if told else {})
    assert cli.run(["info", str(path)]) == 0
    known = {row[0]: str(row[1]) for row in card(path).tables[0].rows}
    assert "trained further on hard labels" in known["model"]
    assert known["trained from"] == "sevennet-0: PBE (+U), trained on MPtrj"
    assert known["its sha256"] == engine.teacher.net.sha256 and known["sha256"] == digest
    assert known["trained on"].startswith("17 hard labels") is told
    assert known["cutoff"] == ("5 Å" if told else "not told by this file")
    said = capsys.readouterr().out
    assert "older version" not in said and "taught" not in known and "labels" not in known


class Headers:
    """`json` that leaves the cutoff out of the header."""

    def dumps(self, header: dict, **_: object) -> str:
        return json.dumps(header | {"settings": {k: v for k, v in header["settings"].items() if k != "cutoff"}})


def replace_reference(net: TunedNet):
    """The tuned teacher without energies of elements."""
    copy = TunedNet(load_teacher("sevennet-0"))
    copy.load_state_dict(net.state_dict() | {"reference": torch.zeros(120, dtype=torch.float64)})
    return copy.potential()


def test_damaged_files_and_those_of_other_weights_are_refused(engine, tmp_path):
    path = tmp_path / TUNED
    net = TunedNet(engine.teacher)
    net.teacher_sha256 = "0" * 64
    save_tuned(path, net, {})
    with pytest.raises(BadInput, match="other weights of sevennet-0"):
        load_tuned(path)
    net = TunedNet(engine.teacher)
    with torch.no_grad():
        next(iter(net.parameters())).fill_(float("nan"))
    save_tuned(path, net, {})
    with pytest.raises(BadInput, match="not finite"):
        load_tuned(path)
    net.teacher = "os:system"
    save_tuned(path, net, {})
    with pytest.raises(BadInput, match="names the code"):
        load_tuned(path)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match="sha256"):
        load_tuned(path)
    assert to_tune("sevennet-0", "auto") and to_tune("chgnet", "auto") and not to_tune("sevennet-0", "corrected")
    for name in ("gfn2-xtb", "mace-mp-0", "ase.calculators.emt:EMT"):
        assert not to_tune(name, "auto")
        with pytest.raises(BadInput, match="cannot be trained here"):
            to_tune(name, "tuned")


def test_the_cost_is_told_before(tmp_path):
    settings = DistillSettings(structure=tmp_path / "x.cif", teacher="sevennet-0", hard="cp2k", hard_budget=100)
    steps, again = tuning_calls(settings, crystals(1))
    assert steps == STEP_CALLS * settings.harden.tune.passes * 100 and again > settings.harden.tune.frames
    for other in (replace(settings, teacher="xtb"), replace(settings, hard="")):
        assert tuning_calls(other, crystals(1)) == (0, 0)


def test_training_and_labels_resume(engine, tmp_path):
    hard = frames_of(crystals(3), engine)
    whole = tune(engine.teacher, hard, replace(HARD.tune, steps=8), tmp_path / "whole")
    with pytest.raises(Interrupted):
        tune(engine.teacher, hard, replace(HARD.tune, steps=8), tmp_path / "parts", stop=StopAt(5))
    again = tune(engine.teacher, hard, replace(HARD.tune, steps=8), tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    tuned = Tuned(potential=again.potential(), labels=3)
    frames = frames_of(crystals(12), engine)
    known = labelled_again(frames, tuned, tmp_path / RELABELLED)
    shards = len(LabelStore(tmp_path / RELABELLED).keys)
    assert labelled_again(frames, tuned, tmp_path / RELABELLED).known.keys() == known.known.keys()
    assert shards == 2 == len(LabelStore(tmp_path / RELABELLED).keys)
    assert torch.equal(known.corrected(frames[0]).target.forces, tuned.corrected(frames[0]).target.forces)
    assert known.corrected(frames[0]).target.stress is None


def test_the_students_are_taught_and_judged_by_the_tuned_teacher(engine, tmp_path):
    systems = crystals(24)
    soft = [
        LabelledFrame(system=one, target=engine.teacher(build_graph(one, 5.0)), source="md", block=k // 3)
        for k, one in enumerate(systems)
    ]
    provenance = {"teacher": "sevennet-0", "settings": asdict(TRAIN)}
    student = train_potential(soft, TRAIN, tmp_path / "train", provenance=provenance).path
    job = Hardening(
        soft=soft, students=[student], teacher="sevennet-0", engine=Remembered(engine), train=TRAIN, budget=8,
        own=teacher_alone(engine.teacher, TRAIN),
    )  # fmt: skip
    with pytest.raises(BadInput, match="tuned, without the teacher"):
        harden(replace(job, own=None), HARD, tmp_path / "none")
    results = harden(job, HARD, tmp_path / "hard")
    rows = {(row[0], row[1]): row for row in results.tables[0].rows}
    errors = {key: row[2].value for key, row in rows.items()}
    assert errors["sevennet-0, tuned", "stiffer"] < 0.6 * errors["sevennet-0", "stiffer"]
    assert errors["student after", "stiffer"] < errors["student before", "stiffer"]
    assert "all its weights trained further on labels of stiffer" in results.tables[0].caption
    made = correction_file(tmp_path / "hard")
    assert made == tmp_path / "hard" / TUNED
    assert read_metadata(made)["provenance"] == {"engine": "stiffer", "labels": 6, "teacher": "sevennet-0"}
    reference, read = reference_of(engine.teacher, "sevennet-0", made), load_correction(made)
    assert reference.name == "sevennet-0 tuned on 6 labels of stiffer" and len(read.known) == 24
    assert torch.equal(reference.labels(soft[:1])[0].target.forces, read.of(soft[0].target, soft[0].system).forces)


def test_the_command_labels_frames_of_the_students_own_md(engine, tmp_path, capsys):
    """`mdistill harden` of a folder with label/ and train/: MD of its student at the temperatures of its labels."""
    run, systems = tmp_path / "run", crystals(12)
    soft = [
        LabelledFrame(system=one, target=engine.teacher(build_graph(one, 5.0)), source="md", block=k // 3)
        for k, one in enumerate(systems)
    ]
    LabelStore(run / "label").append(soft, key="md")
    write_systems(run / "label" / "prepare" / STRUCTURES, systems[:1])
    keep_settings(run / "label", "label", {"label": LabelSettings(temperatures_K=(40.0, 60.0))})
    train_potential(soft, TRAIN, run / "train", provenance={"teacher": "sevennet-0", "settings": asdict(TRAIN)})
    write_labels(tmp_path / "hard.extxyz", frames_of(systems[:4], engine))
    words = [
        "harden",
        str(run),
        "--engine",
        str(tmp_path / "hard.extxyz"),
        "--budget",
        "4",
        "--tune.steps",
        "4",
        "--threads",
        "1",
    ]
    words += ["--time-ps", "0.1", "--tune.frames", "3", "--fit.time", "0.1"]
    assert cli.run(words) in (0, 4), capsys.readouterr().err
    home = run / "hard" / "round-1"
    assert {path.name for path in home.glob("md-*")} == {"md-0-40K", "md-0-60K"}
    labelled = LabelStore(home / "tuned-soft").read()
    assert 0 < len(labelled) <= 3 and {frame.source for frame in labelled} == {"on-policy"}
    tuned, one = load(run / "hard" / TUNED), labelled[0]
    assert torch.allclose(one.target.forces, tuned(build_graph(one.system, 5.0)).forces, atol=1e-5)
    made = {path: path.stat().st_mtime_ns for path in home.rglob("*.npz")}
    assert cli.run(words) in (0, 4) and made == {path: path.stat().st_mtime_ns for path in home.rglob("*.npz")}, "resumed"

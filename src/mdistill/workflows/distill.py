"""The main job: from a crystal structure and a teacher to a validated fast student, production MD, transport, a report.

Stages, each a subfolder of the run and resumable: prepare → label → train → refine (→ harden) → gates (→ stride) → production
→ check (→ follow) (→ before); the run folder itself holds ledger.json, student.mdistill, results.json, report.html. A stage whose
settings and inputs did not change is skipped (`folder.run_stage`). With hard labels the stages after `harden` use its students,
and the teacher with the fitted difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile

import torch

from mdistill.crystals.crystal import Crystal, reduced_formula
from mdistill.data.explore import in_cell
from mdistill.data.prepare import plan
from mdistill.data.split import split_blocks
from mdistill.data.store import LabelStore
from mdistill.data.supercell import enlarged
from mdistill.direct.safe import safe_teacher
from mdistill.errors import BlowUp
from mdistill.hardening.changes import changes
from mdistill.hardening.corrected import Reference
from mdistill.hardening.refine import Rounds, refine
from mdistill.hardening.settings import RefineSettings
from mdistill.hardening.unit_cell import unit_cells
from mdistill.interrupt import NEVER, StopRequest
from mdistill.io.files import replacing, sha256
from mdistill.io.structures import STRUCTURES, read_structure, read_systems
from mdistill.io.trajectories import read_hdf5
from mdistill.judge.check import check_production
from mdistill.judge.fit_tables import training_results
from mdistill.judge.potential import validate
from mdistill.judge.teacher_dynamics import follow_teacher
from mdistill.labelling.engine import Engine
from mdistill.labelling.label import label_run
from mdistill.matter.kinds import KINDS, recognised
from mdistill.nets.model_files import read_metadata
from mdistill.nets.network import StrideMap
from mdistill.notices import notify
from mdistill.observables.scenes import structure_scene
from mdistill.runs.folder import keep_settings, run_stage
from mdistill.runs.identity import contents, model_id
from mdistill.runs.ledger import BEGUN, Ledger, Work
from mdistill.runs.lock import locked
from mdistill.runs.results import Results, merge, read_results, with_sections, write_results
from mdistill.settings import USUAL_TIMEOUT, amended, child_seed, to_json
from mdistill.teachers import check_teacher
from mdistill.teachers.cards import card_of
from mdistill.teachers.models import STRIDE, load, load_stride
from mdistill.training.committee import members_beside, train_committee
from mdistill.types import LabelledFrame, Potential, System
from mdistill.workflows import hard_stages
from mdistill.workflows.distill_settings import DistillSettings, dispersion_notes, matter_notes, mobile_element, resolved
from mdistill.workflows.prepare import prepared_systems
from mdistill.workflows.production import produce
from mdistill.workflows.run_parts import check_labels, read_labels
from mdistill.workflows.settings import ProductionSettings
from mdistill.workflows.stage_log import stage_order, tell_stage
from mdistill.workflows.stride import rung_seeds, stride_rung
from mdistill.workflows.verdict import broken_results, not_followed, with_fixes, withheld

STUDENT = "student.mdistill"


def distill(
    settings: DistillSettings, folder: Path, *, update: bool = False, workers: int = 0, stop: StopRequest = NEVER,
    on_begin: Callable[[], object] | None = None,
) -> Results:  # fmt: skip
    """Do the main job in a run folder, or the rest of it.

    Args:
        settings: All settings.
        folder: The run folder; made if absent.
        update: Allow other settings than the folder's; only the stages that they affect run again.
        workers: Number of worker processes for teacher calls; 0: this process.
        stop: Checked within every long loop.
        on_begin: Called once the folder is known to be usable, before the first stage.
    Returns:
        All results, as written to `results.json`, with the settings as resolved.
    Raises:
        BadInput: A file or setting that cannot be used; another process works in the folder; other settings.
        BlowUp: A production run broke; `results.json` holds the stages before, a failed gate and the way out.
        Interrupted: A stop was requested; the same call resumes.
    """
    crystal = read_structure(settings.structure)
    settings = resolved(settings, crystal)
    plan(crystal, settings.prepare)
    engine = hard_stages.hard_engine(settings, folder, crystal)
    teacher = safe_teacher(settings.teacher, device=settings.device, timeout_s=settings.label.timeout_s)
    plan(crystal, settings.prepare, elements=teacher.elements, subject=settings.teacher)
    with locked(folder):
        inputs = {"structure": crystal.sha256}
        kept = hard_stages.recorded(settings, {"label.timeout_s": USUAL_TIMEOUT})
        keep_settings(folder, "distill", kept, inputs=inputs, paths=("structure",), update=update)
        if on_begin is not None:
            on_begin()
        check_labels(folder, update=update)
        for note in (*recognised(crystal, settings.matter)[2], *dispersion_notes(settings)):
            notify(note)
        job = _Job(settings, folder, crystal, teacher, workers, stop, engine)
        try:
            results = job.all()
        except BlowUp as blown:
            write_results(folder, job.broken(blown))
            raise
        write_results(folder, results)
    return results


@dataclass(frozen=True, slots=True)
class _Job:
    """Data that all stages share."""

    settings: DistillSettings
    folder: Path
    crystal: Crystal
    teacher: Potential
    workers: int
    stop: StopRequest
    engine: Engine | None = None

    def all(self) -> Results:
        """Every stage in order; their results together."""
        settings, home = self.settings, self.folder
        start = home / "prepare" / STRUCTURES
        labels = home / "label" / "labels.jsonl"
        first, refined_labels = hard_stages.student_files(settings, home, "train"), home / "refine" / "labels.txt"
        names = [path.name for path in first]
        prepared_systems(
            self.crystal, self.teacher, settings.prepare, home / "prepare", seed=self._seed("prepare"),
            timeout_s=settings.label.timeout_s, workers=self.workers, stop=self.stop,
        )  # fmt: skip
        label = amended(settings.label, {"seed": self._seed("label"), "timeout_s": USUAL_TIMEOUT})
        self._stage("label", {"label": label}, [start], ["labels.jsonl"], self._label, asks=True)
        self._stage("train", {"train": settings.train, "committee": settings.committee}, [labels], names, self._train)
        refined = {"refine": settings.refine, "train": settings.train, "label": label, "seed": settings.seed}
        refined |= {"pressure_GPa": settings.production.pressure_GPa, "fixed_cell": settings.production.fixed_cell}
        self._stage("refine", refined, [labels, *first, start], [*names, "labels.txt"], self._refine, asks=True)
        taught = [refined_labels]
        if self.engine is not None:
            soft = hard_stages.student_files(settings, home, "refine")
            hard = hard_stages.harden_work(settings, self.engine, refined)
            made = hard_stages.correction(settings, home)
            self._stage("harden", hard, [labels, refined_labels, *soft, start], [*names, made.name], self._harden, asks=True)
            taught.append(made)
        limits = {"validate": settings.validate, "seed": settings.seed}
        self._stage("gates", limits, [self._models()[0], *taught, start], [], self._validate, asks=True)
        held = withheld(read_results(home / "gates").gates, settings)
        if held:
            return self._together(self._order(until="stride" if settings.stride_fs else "production"), notes=[held])
        self._answer([*self._models(), start])
        return self._together(self._order(), not_followed(settings))

    def _answer(self, produced_from: list[Path]) -> None:
        """Long strides, production and its check, from the last student and the structures."""
        settings, home, students = self.settings, self.folder, self._models()
        if settings.stride_fs:
            seeds = {f"{part}.seed": seed for part, seed in rung_seeds(self._seed("stride")).items()}
            learned = amended(settings.rung(), seeds)
            judge = learned.pop("judge")
            self._stage("stride", learned, [students[0], produced_from[-1]], [STRIDE], self._stride, last=judge)
            produced_from = [*produced_from, home / "stride" / STRIDE]
        asked = {name: getattr(settings, name) for name in ("temperatures", "mobile", "seed")}
        asked |= {"production": amended(settings.production, {"despite_gates": False})}
        runs = range(1, settings.production.runs + 1)
        trajectories = [f"{kelvin:g}K/run-{k}/trajectory.h5" for kelvin in settings.temperatures for k in runs]
        self._stage("production", asked, produced_from, trajectories, self._produce)
        if settings.check.frames:
            judged: dict[str, object] = {"check": settings.check, "limits": settings.validate.limits}
            self._stage("check", judged, [home / "production" / "results.json", *students], [], self._check, asks=True)
        if settings.check_ps is not None:
            followed = {"check_ps": settings.check_ps, "limits": settings.validate.limits, "seed": settings.seed}
            self._stage("follow", followed, [home / "production" / "results.json", students[0]], [], self._follow, asks=True)
        if "before" in self._order():
            soft = hard_stages.student_files(settings, home, "refine")
            brief = asked | {"before": settings.harden.before}
            self._stage("before", brief, [home / "production" / "results.json", *soft, produced_from[-1]], [], self._before)

    def broken(self, blown: BlowUp) -> Results:
        """Results of the stages before the one whose dynamics blew up."""
        states = {name: Ledger(self.folder / name).entries().get(name, {}).get("state") for name in self._order()}
        stage = next(name for name, state in states.items() if state == BEGUN)
        return broken_results(self._together(self._order(until=stage)), stage, blown, self.settings)

    def _together(self, stages: Sequence[str], notes: Sequence[str] = ()) -> Results:
        """Results of finished stages, the notes first; the students are copied into the run folder."""
        home, files = self.folder, self._models()
        if files[0].parent.name in stages:
            for stale in members_beside(home / STUDENT):
                stale.unlink()
            for file in files:
                with replacing(home / file.name) as partial:
                    copyfile(file, partial)
        notes = [*matter_notes(self.settings, self.crystal), *notes]
        results = Results(
            command="distill", settings=to_json(self.settings), provenance=self._provenance(), notes=notes,
            citations=self._citations(),
        )  # fmt: skip
        results.scenes.append(structure_scene(self._systems()[0], mobile=self.settings.mobile))
        for name in stages:
            if name != "stride":
                results = merge(results, read_results(home / name))
        if "stride" in stages and "production" in stages:
            results = with_sections(results, read_results(home / "stride"))
        model = {"model_sha256": read_metadata(files[0])["sha256"]} if files[0].parent.name in stages else {}
        return with_fixes(replace(results, provenance=results.provenance | model), self.settings)

    def _stage(
        self, name: str, settings: Mapping[str, object], inputs: list[Path], outputs: list[str],
        act: Callable[[Path], Results], *, last: object = None, asks: bool = False,
    ) -> None:  # fmt: skip
        """One stage; `asks`: whether it uses the teacher."""
        folder = self.folder / name
        if asks:
            settings = {**settings, "teacher": self.settings.teacher}
        models = {"teacher": model_id(self.teacher)} if asks else {}
        work = Work(key=name, settings=settings, inputs=contents(*inputs), models=models, last=last)

        def told() -> None:
            tell_stage(name, self._order(), self.settings, self.folder, self._systems())
            write_results(folder, act(folder))

        run_stage(folder, work, ["results.json", *outputs], told)

    def _models(self) -> list[Path]:
        """Model files of the last students."""
        return hard_stages.student_files(self.settings, self.folder)

    def _order(self, *, until: str = "") -> list[str]:
        return stage_order(self.settings, until=until)

    def _seed(self, name: str) -> int:
        return child_seed(self.settings.seed, name)

    def _label(self, folder: Path) -> Results:
        systems = self._systems()
        check_teacher(self.teacher, self.settings.teacher, system=systems[0])
        return label_run(
            systems, self.teacher, self.settings.label, folder, seed=self._seed("label"), workers=self.workers, stop=self.stop
        )

    def _train(self, folder: Path) -> Results:
        results = train_committee(
            self._labels(), self.settings.train, folder, count=self.settings.committee, stop=self.stop,
            provenance=self._provenance(),
        )  # fmt: skip
        return _told(training_results(results[0], "first fit", others=results[1:]))

    def _rounds(self, name: str, systems: list[System], refine: RefineSettings) -> Rounds:
        settings = self.settings
        return Rounds(
            systems=systems, teacher=self.teacher, temperatures_K=settings.label.temperatures_K, settings=refine,
            label=settings.label, train=settings.train, pressure_GPa=self._pressure(), matter=KINDS[settings.matter],
            seed=self._seed(name), workers=self.workers,
        )  # fmt: skip

    def _refine(self, folder: Path) -> Results:
        settings, least, mobile = self.settings, self.settings.refine, mobile_element(self.settings.mobile)
        systems = [enlarged(system, atoms=least.atoms, ions=least.ions, mobile=mobile) for system in self._systems()]
        rounds = self._rounds("refine", systems, settings.refine)
        first = hard_stages.student_files(settings, self.folder, "train")
        results, tables = refine(rounds, self._labels(), first, folder, stop=self.stop, provenance=self._provenance())
        shards = sorted(folder.glob("round-*/labels/*.npz"))
        with replacing(folder / "labels.txt") as partial:
            partial.write_text("".join(f"{sha256(p)} {p.relative_to(folder)}\n" for p in shards), encoding="utf-8")
        return merge(tables, _told(training_results(results[0], "last fit", others=results[1:])))

    def _harden(self, folder: Path) -> Results:
        assert self.engine is not None  # noqa: S101
        settings, cells = self.settings, self._systems()
        if hard_stages.in_unit_cell(settings, self.engine, self.crystal):
            most, seed = settings.harden.most_atoms, self._seed("unit cell")
            cells = unit_cells(self.crystal, self.teacher, settings.prepare, folder, most_atoms=most, seed=seed, stop=self.stop)
        own = self._rounds("harden", cells, hard_stages.later_rounds(settings.refine, settings.harden))
        return hard_stages.harden_stage(self.settings, self.folder, self.engine, own, told=self._provenance(), stop=self.stop)

    def _reference(self) -> Reference:
        return hard_stages.judged_by(self.settings, self.folder, self.teacher)

    def _validate(self, folder: Path) -> Results:
        settings, reference = self.settings, self._reference()
        frames = reference.labels(self._labels())
        held_out = split_blocks(frames, held_out=settings.train.held_out)[1]
        compared = [frame for frame in frames if frame.temperature_K in settings.temperatures]
        plain = settings.validate if self.engine is None else replace(settings.validate, replays=0)
        results = validate(
            self._student(), self.teacher, held_out, self._systems()[0], plain, folder, taught=settings.label,
            teacher_frames=compared, labels=read_labels(self.folder), mobile=settings.mobile, seed=self._seed("validate"),
            stop=self.stop,
        )  # fmt: skip
        return reference.told(results)

    def _stride(self, folder: Path) -> Results:
        student, rung, seed = self._models()[0], self.settings.rung(), self._seed("stride")
        return stride_rung(student, self._systems(), rung, folder, seed=seed, stop=self.stop)

    def _produce(self, folder: Path) -> Results:
        kelvin, stride = self.settings.temperatures, self._long_strides()
        return self._runs(folder, self._committee(), kelvin, self._production(), name="production", stride=stride)

    def _production(self) -> ProductionSettings:
        return replace(self.settings.production, fixed_cell=self._pressure() is None)

    def _before(self, folder: Path) -> Results:
        """The soft students' runs at the highest temperature, and what differs in those of production."""
        kelvin, home = max(self.settings.temperatures), self.folder / "production"
        brief, soft = hard_stages.brief_production(self.settings, self._production()), self._committee("refine")
        try:
            results = self._runs(folder, soft, (kelvin,), brief, name="before")
        except BlowUp as blown:
            return _told(Results(command="changes", notes=[f"the MD of the soft students blew up, {blown.reason}: not compared"]))
        return changes(results, read_results(home), (folder / f"{kelvin:g}K", home / f"{kelvin:g}K"), kelvin=kelvin)

    def _runs(
        self, folder: Path, students: list[Potential], kelvin: Sequence[float], settings: ProductionSettings, *, name: str,
        stride: StrideMap | None = None,
    ) -> Results:  # fmt: skip
        return produce(
            self._systems(), students, kelvin, settings, folder, mobile=mobile_element(self.settings.mobile),
            matter=KINDS[self.settings.matter], heavy_h=self.settings.label.heavy_h, seed=self._seed(name), stride=stride,
            taught=self._labels(), stop=self.stop,
        )  # fmt: skip

    def _check(self, folder: Path) -> Results:
        settings, home, reference = self.settings, self.folder, self._reference()
        values = read_results(home / "production").values
        slopes = {f"{t:g} K": values[name] for t in settings.temperatures if (name := f"msd_slope_{t:g}K") in values}
        limits = [f"{t:g} K" for t in settings.temperatures if (d := values.get(f"diffusivity_{t:g}K")) and d.value is None]
        results = check_production(
            home / "production", [load(path, device=settings.device) for path in self._models()], reference.potential,
            settings.check, folder, temperatures_K=settings.temperatures, mobile=mobile_element(settings.mobile),
            limits=settings.validate.limits, label=settings.label, like=self._systems()[0],
            orderings=len(self._systems()), slopes=slopes, bounds=limits, workers=self.workers, stop=self.stop,
        )  # fmt: skip
        return reference.told(results)

    def _follow(self, folder: Path) -> Results:
        """The teacher in the trained cell, at the volume of production at the highest temperature."""
        settings, start, kelvin = self.settings, self._systems()[0], max(self.settings.temperatures)
        produced = read_hdf5(self.folder / "production" / f"{kelvin:g}K" / "run-1" / "trajectory.h5")
        share = start.n_atoms / len(produced.numbers)
        volumes = [float(torch.linalg.det(cell.double()).abs()) for cell in (start.cell[0], produced.cell[0])]
        start = in_cell(start, start.cell[0] * (share * volumes[1] / (volumes[0] or 1.0)) ** (1.0 / 3.0))
        reference = self._reference()
        results = follow_teacher(
            reference.potential, self._student(), start, folder, temperature_K=kelvin, time_ps=settings.check_ps or 0.0,
            mobile=mobile_element(settings.mobile), limits=settings.validate.limits, seed=self._seed("follow"), stop=self.stop,
        )  # fmt: skip
        return reference.told(results)

    def _pressure(self) -> float | None:
        """Pressure of the student's dynamics, GPa; None in a fixed cell, and for a teacher without stress."""
        if self.settings.production.fixed_cell or any(frame.target.stress is None for frame in self._labels()):
            return None
        return self.settings.production.pressure_GPa

    def _long_strides(self) -> StrideMap | None:
        """The map, if it passed its gates."""
        folder = self.folder / "stride"
        if not self.settings.stride_fs or not all(gate.passed for gate in read_results(folder).gates):
            return None
        return load_stride(folder / STRIDE, student=self._models()[0])

    def _student(self) -> Potential:
        """The first member of the committee."""
        return self._committee()[0]

    def _committee(self, stage: str = "") -> list[Potential]:
        """The last students, or those of a stage, in float32: nearly twice as fast; the NVE drift gate checks its precision."""
        files = hard_stages.student_files(self.settings, self.folder, stage)
        return [load(path, device=self.settings.device, precision="float32") for path in files]

    def _systems(self) -> list[System]:
        return read_systems(self.folder / "prepare" / STRUCTURES)

    def _labels(self) -> list[LabelledFrame]:
        return LabelStore(self.folder / "label").read()

    def _provenance(self) -> dict[str, object]:
        return {
            "formula": reduced_formula(self.crystal.composition), "teacher": self.settings.teacher,
            "structure": str(self.settings.structure), "structure_sha256": self.crystal.sha256,
        }  # fmt: skip

    def _citations(self) -> list[str]:
        card = card_of(self.settings.teacher)
        return ["mdistill", *([] if card is None else card.citations), "ase", "vesin", "torch", "zbl", "ace"]


def _told(results: Results) -> Results:
    """The results, after their notes were issued as notices."""
    for note in results.notes:
        notify(note)
    return results

"""Parts of a run of `mdistill distill` for jobs that add to it: structures, teacher, labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mdistill.data.store import LabelStore
from mdistill.direct.safe import safe_teacher
from mdistill.errors import BadInput
from mdistill.hardening.corrected import correction_file, load_correction
from mdistill.io.structures import STRUCTURES, read_systems
from mdistill.nets.model_files import read_metadata
from mdistill.runs.folder import set_aside
from mdistill.runs.results import read_results
from mdistill.runs.trust import refuse_import
from mdistill.settings import USUAL_TIMEOUT
from mdistill.types import LabelledFrame, Potential, System


def relaxed_systems(run: Path) -> list[System]:
    """The structures that a run's teacher relaxed.

    Raises:
        BadInput: The folder holds none.
    """
    structures = run / "prepare" / STRUCTURES
    if not structures.is_file():
        raise BadInput(run, f"holds no prepare/{STRUCTURES}", allowed="a run folder of `mdistill distill`", fix="check the path")
    return read_systems(structures)


def teacher_of(
    run: Path, name: str = "", *, device: str = "cpu", trusted: bool = False, timeout_s: float = USUAL_TIMEOUT
) -> Potential:
    """A teacher by name, or the teacher of a run.

    Args:
        run: The run folder.
        name: As the user typed it; the name in the run's results where empty.
        device: Device of the teacher.
        trusted: Whether the results may name an import path, which runs code.
        timeout_s: Longest call of an ASE calculator, s.
    Raises:
        BadInput: No name, and the run's results name none, or an import path; or a teacher that cannot be loaded.
    """
    if not name:
        name = str(read_results(run).provenance.get("teacher", ""))
        if not trusted:
            refuse_import(name, source=run / "results.json", flag="--teacher")
    if not name:
        raise BadInput(run, "its results name no teacher", allowed="a run of `mdistill distill`", fix="--teacher NAME")
    return safe_teacher(name, device=device, timeout_s=timeout_s)


def check_labels(run: Path, *, update: bool) -> None:
    """Check the stored labels of a run; with `update`, stages with damaged ones are set aside and so done again.

    Raises:
        BadInput: Damaged labels without `update`.
    """
    rounds, check = sorted(run.glob("refine/round-*/labels")), [run / "check" / "labels"]
    hard = [run / "harden" / "labels", *sorted(run.glob("harden/round-*/soft"))]
    for stage, folders in (("label", [run / "label"]), ("refine", rounds), ("harden", hard), ("check", check)):
        try:
            for folder in folders:
                LabelStore(folder).check()
        except BadInput as damage:
            if not update:
                fix = f"restore it, or add --update to do the stage {stage!r} again (its old folder is kept)"
                raise BadInput(damage.subject, damage.problem, allowed=damage.allowed, fix=fix) from damage
            set_aside(run / stage)


def own_labels(run: Path, student: Path) -> list[LabelledFrame]:
    """The labels that a run's student was taught: the teacher's, corrected where the student knows hard labels."""
    frames, made = read_labels(run), correction_file(run / "harden")
    if not read_metadata(student)["provenance"].get("hard_labels") or made is None:
        return frames
    correction = load_correction(made)
    return [correction.corrected(frame) for frame in frames]


def read_labels(path: Path) -> list[LabelledFrame]:
    """All labels of a label folder, or of a run folder: its `label` stage and its on-policy rounds.

    Raises:
        BadInput: No labels there.
    """
    folders = [path, path / "label", *sorted(path.glob("refine/round-*/labels"))]
    frames: list[LabelledFrame] = []
    for number, folder in enumerate(f for f in folders if (f / "labels.jsonl").is_file()):
        frames += [replace(frame, block=frame.block + 1_000_000 * number) for frame in LabelStore(folder).read()]
    if not frames:
        raise BadInput(path, "no labels", allowed="a folder made by `mdistill label` or `mdistill distill`", fix="label first")
    return frames

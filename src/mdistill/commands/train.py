"""mdistill train: fit a student to labels; other products are in `train_direct.py`, `train_stride.py`, `train_transport.py`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mdistill.commands.label_files import LABEL_FILES, LabelFileArguments, file_settings
from mdistill.errors import BadInput
from mdistill.flags.arguments import finish, output_folder, parse, short_help, stamped, use_threads, write_config
from mdistill.flags.trust import TrustArguments
from mdistill.settings import child_seed
from mdistill.training.settings import ClosedFormSettings, TrainSettings

PRODUCTS = ("potential", "direct", "stride", "transport")
SHARED = ("potential", "direct")
"""Products that several processes train together."""
USAGE = """usage: mdistill train potential LABELS [LABELS …] --out FOLDER [--help]
       mdistill train direct LABELS [LABELS …] --out FOLDER [--help]
       mdistill train stride --from RUN [--help]
       mdistill train transport --out FOLDER [--data FOLDER] [--help]"""


@dataclass(frozen=True, kw_only=True)
class TrainArguments(LabelFileArguments, TrustArguments):
    """Labels and student."""

    labels: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Label folder (from `mdistill label`), run folder of `mdistill distill`, or files with labels made elsewhere: extended XYZ,
    .npz, vasprun.xml, OUTCAR, ASE database, SPICE (.hdf5), QCML (.tfrecord)."""
    out: Path
    """Folder for student.mdistill, its checkpoint and results.json."""
    method: Annotated[Literal["gradient", "closed-form"], tyro.conf.arg(name="fit")] = "gradient"
    """Method: gradient (an MLP, minutes) or closed-form (linear, one solve, with error bars)."""
    closed_form: ClosedFormSettings = field(default_factory=ClosedFormSettings)
    hold_out: Literal["blocks", "groups"] = "blocks"
    """Held-out part: last blocks of each group, or groups."""
    hold_out_groups: tuple[str, ...] = ()
    """Names of the groups to hold out."""
    test_file: tuple[Path, ...] = ()
    """Files with the held-out frames."""
    start_from: Path | None = None
    """Student of the same elements and size to start from."""
    redraw: str | None = None
    """Teacher that computes new curvature labels at every curvature step."""
    seed: int = 0
    """Seed of weights and order of training."""
    device: str = "cpu"
    """Device of that teacher: cpu, cuda or auto."""
    threads: int | None = None
    """Number of threads (default: all cores)."""
    max_hours: float | None = None
    """Time limit, h: save and stop; the same command resumes."""
    settings: Annotated[TrainSettings, tyro.conf.arg(name="")] = field(default_factory=TrainSettings)


HELP = """\
Fit a student to energies, forces, stress and curvature products of a teacher, or of files with labels made elsewhere: a
one-hop moment net, or a message-passing net (painn). Whole blocks are held out; the same command resumes.

examples:
  mdistill train potential runs/labels --out runs/student
  mdistill train potential runs/labels --net painn --out runs/painn
  mdistill train potential runs/labels --fit closed-form --out runs/linear
  mdistill train potential data.extxyz --test-file test.extxyz --out runs/mine
  mdistill train potential runs/labels --start-from a.mdistill --out runs/refit
  torchrun --nproc-per-node 2 -m mdistill train potential runs/labels --out b
"""
GROUPS = {
    "student": ("net", "size", "cutoff"),
    "fit": ("method", "fit.max_minutes", "fit.steps", "fit.batch_size", "fit.learning_rate", "held_out", "start_from"),
    "loss": ("energy_weight", "force_weight", "stress_weight", "curvature"),
    "label files": ("energy_key", "forces_key", "stress_key", "stress_sign", "test_file"),
    "run": ("out", "seed", "device", "threads", "max_hours"),
}


def main(arguments: list[str]) -> int:
    """Train; prints the errors on the held-out blocks."""
    if not arguments or arguments[0] not in PRODUCTS:
        if arguments and arguments[0] in ("-h", "--help", "--help-all"):
            print(f"{USAGE}\n{short_help(TrainArguments, 'mdistill train potential', HELP, {}).partition(chr(10))[2]}")
            return 0
        raise BadInput("product", "none named", allowed=", ".join(PRODUCTS), fix="mdistill train potential LABELS --out FOLDER")
    if arguments[0] not in SHARED:
        one_process(f"train {arguments[0]}")
    if arguments[0] != "potential":
        return int(import_module(f"mdistill.commands.train_{arguments[0]}").main(arguments[1:]))
    given = parse(TrainArguments, arguments[1:], program="mdistill train potential", description=HELP, groups=GROUPS)
    given = replace(
        given, settings=replace(given.settings, fit=replace(given.settings.fit, seed=child_seed(given.seed, "train")))
    )
    if given.settings.net == "edge_transformer":
        allowed, fix = "moment, painn: it learns rotations from turned copies", "mdistill train direct LABELS --out FOLDER"
        raise BadInput("net", "edge_transformer", allowed=allowed, fix=fix)
    from mdistill.interrupt import stop_on_signals
    from mdistill.io.files import sha256
    from mdistill.judge.fit_tables import accuracy_results
    from mdistill.runs.folder import keep_settings
    from mdistill.runs.lock import locked
    from mdistill.runs.results import merge
    from mdistill.training.labels import frames_hash
    from mdistill.training.ranks import here

    if given.method == "closed-form":
        _check_closed_form(given)
    use_threads(given.threads)
    (frames, held, read), teacher = labels_of(given), None
    if given.redraw is not None:
        from mdistill.direct.safe import safe_teacher

        teacher = safe_teacher(given.redraw, device=given.device, subject="--redraw")
    more: dict[str, Any] = {"held_blocks": held, "provenance": {"teacher": teacher_of(given.labels)}}
    command = "mdistill train " + shlex.join(arguments)
    if not here().first:
        from mdistill.training.potential import prepare_fit

        more = {"start_from": given.start_from, "redraw": teacher, "held_blocks": held}
        return follow(given, command, lambda: prepare_fit(frames, given.settings, **more))
    folder = output_folder(given.out)
    names = ("settings", "labels", "start_from", "redraw", *(["closed_form"] if given.method == "closed-form" else []),
             *(["test_file", "hold_out", "hold_out_groups"] if held else []))  # fmt: skip
    kept = {name: getattr(given, name) for name in names}
    with locked(folder), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        inputs = {"labels": frames_hash(frames)} | ({"start_from": sha256(given.start_from)} if given.start_from else {})
        keep_settings(folder, "train potential", kept, inputs=inputs, paths=("labels", "start_from", "test_file"))
        write_config(folder, "mdistill train potential", given)
        result, fitted = _fitted(given, frames, folder, stop=stop, redraw=teacher, **more)
    results = replace(merge(merge(read, fitted), accuracy_results(result)), provenance=fitted.provenance)
    finish(stamped(results, given.settings, repeat=command), folder, report=True)
    print(f"student: {result.path}")
    return 0


def _fitted(given: TrainArguments, frames: list[Any], folder: Path, *, redraw: Any, **more: Any) -> tuple[Any, Any]:
    """The result of the fit and its tables."""
    from mdistill.judge.fit_tables import closed_form_results, training_results

    if given.method == "closed-form":
        from mdistill.closed_form.linear_fit import fit_closed_form

        result, posterior, within = fit_closed_form(frames, given.settings, folder, closed_form=given.closed_form, **more)
        return result, closed_form_results(result, posterior, within)
    from mdistill.training.potential import train_potential

    trained = train_potential(frames, given.settings, folder, start_from=given.start_from, redraw=redraw, **more)
    return trained, training_results(trained, "fit")


def follow(given: Any, command: str, prepare: Callable[[], Any]) -> int:
    """The part of a process that trains with others and writes no files."""
    from mdistill.interrupt import stop_on_signals
    from mdistill.training.potential import fit_only

    with stop_on_signals(max_hours=given.max_hours, resume=command, told=False) as stop:
        fit_only(prepare(), given.out, stop=stop)
    return 0


def one_process(what: str) -> None:
    """Reject several processes for what is done in one."""
    from mdistill.training.ranks import here

    if not here().alone:
        allowed, fix = (
            " and ".join(f"train {name}" for name in SHARED),
            "mdistill without torchrun; --threads N gives it more cores",
        )
        raise BadInput("torchrun", f"{here().count} processes for {what}", allowed=allowed, fix=fix)


def teacher_of(labels: tuple[Path, ...]) -> str:
    """Teacher of a label folder or run; the names of label files."""
    from mdistill.runs.folder import run_settings

    names = ", ".join(path.name for path in labels)
    return str(run_settings(labels[0]).get("teacher") or f"labels in {names}") if labels[0].is_dir() else f"labels in {names}"


def labels_of(given: Any) -> tuple[list[Any], frozenset[int], Any]:
    """Frames, the blocks to hold out (none: the usual ones), and a table of what label files hold."""
    from mdistill.labelling.import_labels import import_labels, labels_table
    from mdistill.runs.results import Results
    from mdistill.workflows.run_parts import read_labels

    if len(given.labels) == 1 and given.labels[0].is_dir():
        for name in (*LABEL_FILES, "hold_out_groups", "test_file"):
            if getattr(given, name):
                raise BadInput(f"--{name.replace('_', '-')}", "given with a label folder", allowed="files", fix="leave it out")
        return read_labels(given.labels[0]), frozenset(), Results(command="train")
    settings = file_settings(
        given, held_out=given.settings.held_out, hold_out=given.hold_out, hold_out_groups=given.hold_out_groups
    )
    imported = import_labels(given.labels, settings, test=given.test_file)
    return imported.frames, imported.held_blocks, labels_table(imported)


def _check_closed_form(given: TrainArguments) -> None:
    one_process("--fit closed-form")
    for name, value in (("start-from", given.start_from), ("redraw", given.redraw)):
        if value is not None:
            raise BadInput(name, "given with --fit closed-form", allowed="none: it is solved at once", fix="leave it out")
    if given.settings.net != "moment":
        raise BadInput("net", f"{given.settings.net} with --fit closed-form", allowed="moment", fix="--fit gradient")

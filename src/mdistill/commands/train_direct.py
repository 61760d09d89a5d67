"""mdistill train direct: an edge transformer that predicts forces directly."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mdistill.commands.label_files import LabelFileArguments
from mdistill.commands.train import follow, labels_of, teacher_of
from mdistill.direct.settings import DirectSettings
from mdistill.flags.arguments import finish, output_folder, parse, stamped, use_threads, write_config
from mdistill.settings import child_seed


@dataclass(frozen=True, kw_only=True)
class TrainDirectArguments(LabelFileArguments):
    """Labels and size."""

    labels: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folder of `mdistill molecules`, label folder, run folder, or files with labels made elsewhere: extended XYZ, .npz,
    vasprun.xml, OUTCAR, ASE database, SPICE (.hdf5), QCML (.tfrecord)."""
    out: Path
    """Folder for student.mdistill, its checkpoint and results.json."""
    start_from: Path | None = None
    """Model to fine-tune: all its weights, its size and elements."""
    hold_out: Literal["blocks", "groups"] = "blocks"
    """Held-out part: last blocks of each group, or groups."""
    hold_out_groups: tuple[str, ...] = ()
    """Names of the groups to hold out."""
    test_file: tuple[Path, ...] = ()
    """Files with the held-out frames."""
    seed: int = 0
    """Seed of weights, turns and order of training."""
    threads: int | None = None
    """Number of threads (default: all cores)."""
    max_hours: float | None = None
    """Time limit, h: save and stop; the same command resumes."""
    settings: Annotated[DirectSettings, tyro.conf.arg(name="")] = field(default_factory=DirectSettings)


HELP = """\
Fit an edge transformer, which predicts forces without the gradient of an energy, on randomly rotated and mirrored copies of
labelled structures. It needs many structures: below about 10⁴ a student of `mdistill train potential` is more accurate.
Training resumes from its checkpoint with the same command.

examples:
  mdistill train direct data.extxyz --test-file test.extxyz --out runs/direct
  mdistill train direct runs/molecules --states --out runs/pretrained
  mdistill train direct data.extxyz --start-from runs/pretrained/student.mdistill --fit.steps 2000 --out runs/tuned
"""
GROUPS = {
    "size": ("cutoff", "width", "layers", "states"),
    "fit": ("fit.max_minutes", "fit.steps", "fit.batch_size", "fit.learning_rate", "copies", "held_out", "start_from"),
    "loss": ("energy_weight", "energy_gradient_weight", "antisymmetry_weight"),
    "label files": ("energy_key", "forces_key", "stress_key", "stress_sign", "test_file"),
    "run": ("out", "seed", "threads", "max_hours"),
}


def main(arguments: list[str]) -> int:
    """Train; prints errors on the held-out structures and the throughput."""
    program = "mdistill train direct"
    given = parse(TrainDirectArguments, arguments, program=program, description=HELP, groups=GROUPS)
    fit = replace(given.settings.fit, seed=child_seed(given.seed, "train"))
    given = replace(given, settings=replace(given.settings, fit=fit))
    from mdistill.direct.tables import direct_results
    from mdistill.direct.train import prepare_direct, throughput, train_direct
    from mdistill.estimates import exactly
    from mdistill.interrupt import stop_on_signals
    from mdistill.io.files import sha256
    from mdistill.judge.fit_tables import accuracy_results, training_results
    from mdistill.nets.model_files import load_model
    from mdistill.runs.folder import keep_settings
    from mdistill.runs.lock import locked
    from mdistill.runs.results import merge
    from mdistill.training.labels import frames_hash
    from mdistill.training.ranks import here

    use_threads(given.threads)
    frames, held, read = _frames(given)
    command = f"{program} {shlex.join(arguments)}"
    if not here().first:
        more: dict[str, Any] = {"start_from": given.start_from, "held_blocks": held}
        return follow(given, command, lambda: prepare_direct(frames, given.settings, **more))
    folder = output_folder(given.out)
    kept = {
        name: getattr(given, name) for name in ("settings", "labels", "start_from", "test_file", "hold_out", "hold_out_groups")
    }
    with locked(folder), stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        inputs = {"labels": frames_hash(frames)} | ({"start_from": sha256(given.start_from)} if given.start_from else {})
        keep_settings(folder, "train direct", kept, inputs=inputs, paths=("labels", "start_from", "test_file"))
        write_config(folder, program, given)
        result = train_direct(
            frames, given.settings, folder, stop=stop, start_from=given.start_from, held_blocks=held,
            provenance={"teacher": teacher_of(given.labels)},
        )  # fmt: skip
    fitted = training_results(result, "fit")
    results = merge(merge(merge(read, fitted), accuracy_results(result)), direct_results(result, load_model(result.path), frames))
    speed = {name: exactly(value) for name, value in throughput(result, given.settings).items()}
    results = replace(results, values=results.values | speed, provenance=fitted.provenance)
    finish(stamped(results, given.settings, repeat=command), folder, report=True)
    print(f"{speed['copies_per_s'].value:.0f} copies ({speed['structures_per_s'].value:.0f} structures) per CPU second")
    print(f"student: {result.path}")
    return 0


def _frames(given: TrainDirectArguments) -> tuple[list[Any], frozenset[int], Any]:
    """Frames, the blocks to hold out (none: the usual ones), and a table of what label files hold."""
    from mdistill.direct.shards import is_shards, read_folders
    from mdistill.runs.results import Results

    if all(is_shards(path) for path in given.labels):
        return read_folders(given.labels), frozenset(), Results(command="train")
    return labels_of(given)

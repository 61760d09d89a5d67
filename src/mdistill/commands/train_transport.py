"""mdistill train transport: conductivities at 300 K from measured ones; motion at high temperature from trajectories."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from mdistill.campaign.settings import ALIKE, TrajectorySettings
from mdistill.errors import BadInput
from mdistill.flags.arguments import finish, output_folder, parse, stamped, use_threads, with_missing, write_config
from mdistill.notices import notify
from mdistill.settings import changes, hints
from mdistill.transport.settings import MotionSettings, TransportSettings


@dataclass(frozen=True, kw_only=True)
class TrainTransportArguments:
    """Measured conductivities, or trajectories."""

    data: Path | None = None
    """Folder of OBELiX (all.csv, test.csv), or the folder that holds `obelix/` (default: $MDISTILL_DATA)."""
    trajectories: Path | None = None
    """Trajectory set (.npz): to learn from, or with --structures to add to."""
    structures: tuple[Path, ...] = ()
    """Structures, or folders of them, to distil, run, and add to --trajectories."""
    published: Path | None = None
    """Folder of a published set to add to --trajectories."""
    species: str = ""
    """Mobile ion of --structures (default: the usual one of each crystal)."""
    make: TrajectorySettings = field(default_factory=TrajectorySettings)
    motion: MotionSettings = field(default_factory=MotionSettings)
    out: Path
    """Folder for the model file and results.json."""
    threads: int | None = None
    """Number of threads (default: all cores)."""
    workers: int = 0
    """Worker processes for --structures; 0: this one."""
    max_hours: float | None = None
    """Time limit of --structures, h: save and stop; the same command resumes."""
    settings: Annotated[TransportSettings, tyro.conf.arg(name="")] = field(default_factory=TransportSettings)


HELP = """\
Fit a predictor of `mdistill screen`. At 300 K: extremely randomised trees on composition, density, lattice and space group of
every measured conductivity of OBELiX (599 Li conductors), and trees on composition alone. Whole groups of equal composition or
paper are held out to set the intervals; CIFs beside the tables add a correction by ion sites and predicted motion.

With --structures a trajectory set is made: a cheap student of each crystal, its dynamics at 600 to 1200 K, and from them MSD, D
and spectra. A crystal costs 4 to 25 minutes of CPU time; the same command resumes, and adds crystals.
With --published the set gets its crystals from LiFlow's universal set on this disk, or from structures with known D.
With --trajectories alone the predictor of motion at 600 to 1200 K learns from that set: trees on composition, density and ion
network, or with --motion.members nets that see the trajectories in training (--motion.trees 0: these alone). The models of
the package were made like this.

examples:
  mdistill train transport --data obelix --out runs/transport
  mdistill screen candidates/ --model runs/transport/transport.mdistill
  mdistill train transport --structures cifs/ --trajectories set.npz --out runs/set
  mdistill train transport --trajectories set.npz --out runs/motion
  mdistill screen candidates/ --temperature 600 1000 --motion runs/motion/motion.mdistill
"""
GROUPS = {
    "what": ("data", "trajectories", "structures", "published", "species"),
    "fit": ("trees", "folds", "share", "motion.target", "motion.trees", "motion.members", "motion.folds"),
    "run": ("out", "seed", "threads", "workers", "max_hours"),
}
PROGRAM = "mdistill train transport"
_USED = {
    "--structures": ("make", "structures", "trajectories", "species", "workers", "max_hours"),
    "--published": (*(f"make.{name}" for name in ALIKE), "published", "trajectories", "species", "max_hours"),
    "--trajectories": ("motion", "trajectories"),
    "--data": ("settings", "data"),
}
"""Fields that each of the jobs uses, its settings first, by the flag that chooses it."""
_ALWAYS = ("out", "threads")


def main(arguments: list[str]) -> int:
    """Train; prints the errors of grouped cross-validation."""
    given = parse(TrainTransportArguments, arguments, program=PROGRAM, description=HELP, groups=GROUPS)
    command = f"{PROGRAM} {shlex.join(arguments)}"
    if given.structures:
        check_used(given, "--structures")
        if given.workers and given.threads is not None:
            problem = f"{given.threads} is not used with --workers {given.workers}: each worker has one thread"
            raise BadInput("--threads", problem, allowed="--threads with --workers 0", fix="leave it out")
        return make_set(given, command)
    if given.published is not None:
        check_used(given, "--published")
        return add_set(given, given.published, command)
    if given.trajectories is not None:
        check_used(given, "--trajectories")
        return fit_motion(given, given.trajectories, command)
    check_used(given, "--data")
    return fit_measured(given, command)


def check_used(given: TrainTransportArguments, job: str) -> None:
    """Refuse settings that the job would ignore.

    Args:
        given: The arguments.
        job: Flag that chooses the job.
    Raises:
        BadInput: A setting of another job; names the flag of this job that does the same.
    """
    own, used = _USED[job][0].partition(".")[0], (*_USED[job], *_ALWAYS)
    for name, value in changes(given, with_missing(TrainTransportArguments)):
        first, _, last = name.partition(".")
        if first in used or name in used:
            continue
        same = last in ("seed", "folds") and own in used and last in hints(hints(TrainTransportArguments)[own])
        fix = f"{_flag(f'{own}.{last}')} {value}" if same else "leave it out"
        allowed = ", ".join(map(_flag, used))
        raise BadInput(_flag(name), f"{value} is not used with {job}", allowed=allowed, fix=fix)


def _flag(name: str) -> str:
    """The flag of a field, the flags of a group of them."""
    shown = {"settings": "--trees, --folds, --share, --seed", "make": "--make.…", "motion": "--motion.…"}
    return shown.get(name) or f"--{name.removeprefix('settings.').replace('_', '-')}"


def fit_measured(given: TrainTransportArguments, command: str) -> int:
    """Trees on measured conductivities."""
    from mdistill.transport.model import save_transport
    from mdistill.transport.motion_file import shipped_motion, shipped_motion_sha256
    from mdistill.transport.obelix import CIFS, TABLE, cif_texts, provenance_of, read_obelix
    from mdistill.transport.train import site_inputs, train_transport
    from mdistill.transport.training_tables import fit_results

    entries = read_obelix(given.data)
    folder = output_folder(given.out)
    texts = cif_texts(given.data)
    if not texts:
        notify(f"no {CIFS} beside {TABLE}: the model has no correction by ion sites and predicted motion")
    sites = site_inputs(entries, texts, shipped_motion()) if texts else None
    model = train_transport(entries, given.settings, sites=sites, motion=shipped_motion_sha256())
    results: Any = stamped(fit_results(model, entries), given.settings, repeat=command)
    made = provenance_of(entries, given.data) | {"version": results.version, "settings": results.settings}
    digest = save_transport(folder / "transport.mdistill", model, made)
    write_config(folder, PROGRAM, given)
    results.provenance["model_sha256"] = digest
    finish(results, folder)
    print(f"model: {folder / 'transport.mdistill'}")
    return 0


def fit_motion(given: TrainTransportArguments, path: Path, command: str) -> int:
    """A predictor of motion taught by a trajectory set; prints its errors on held-out groups."""
    from mdistill.io.files import sha256
    from mdistill.transport.motion import train_motion
    from mdistill.transport.motion_file import save_motion
    from mdistill.transport.training_tables import motion_results
    from mdistill.transport.trajectory_set import read_trajectory_set

    use_threads(given.threads)
    records, folder = read_trajectory_set(path), output_folder(given.out)
    model = train_motion(records, given.motion)
    results: Any = stamped(motion_results(model, records), given.motion, repeat=command)
    made = {"data": path.name, "data_sha256": sha256(path), "version": results.version, "settings": results.settings}
    results.provenance["model_sha256"] = save_motion(folder / "motion.mdistill", model, made)
    write_config(folder, PROGRAM, given)
    finish(results, folder)
    print(f"model: {folder / 'motion.mdistill'}")
    return 0


def make_set(given: TrainTransportArguments, command: str) -> int:
    """Add crystals to a trajectory set; exit status 2 where a file could not be used."""
    from mdistill.campaign.trajectories import make_trajectory_set
    from mdistill.interrupt import stop_on_signals
    from mdistill.io.listing import structure_files

    path = _set_to_add_to(given)
    use_threads(given.threads)
    files, _ = structure_files(given.structures)
    folder = output_folder(given.out)
    with stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        results = make_trajectory_set(files, path, given.make, folder, species=given.species, workers=given.workers, stop=stop)
    return _end_set(given, results, folder, command)


def add_set(given: TrainTransportArguments, data: Path, command: str) -> int:
    """Add crystals of a published set to a trajectory set; exit status 2 where some could not be used."""
    from mdistill.campaign.published_sets import add_published
    from mdistill.interrupt import stop_on_signals

    path = _set_to_add_to(given)
    use_threads(given.threads)
    folder = output_folder(given.out)
    with stop_on_signals(max_hours=given.max_hours, resume=command) as stop:
        results = add_published(data, path, given.make, folder, species=given.species, stop=stop)
    return _end_set(given, results, folder, command)


def _set_to_add_to(given: TrainTransportArguments) -> Path:
    if given.trajectories is None:
        raise BadInput("--trajectories", "not given", allowed="the set to add to, .npz", fix="--trajectories set.npz")
    return given.trajectories


def _end_set(given: TrainTransportArguments, results: Any, folder: Path, command: str) -> int:
    write_config(folder, PROGRAM, given)
    finish(stamped(results, given.make, repeat=command), folder)
    print(f"set: {given.trajectories}")
    return 2 if results.values["structures_refused"].value else 0

"""60 kills over all stages of the job and over the other commands that write; the same command then ends as an unkilled one."""

from __future__ import annotations

import shlex
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from attack.killing import Ended, Kill, leftovers, run_forked
from attack.tally import Outcomes
from drawing import draw_nothing
from mdistill.io.files import sha256
from mdistill.runs.lock import working
from mdistill.runs.results import read_results

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_drawing")]
CRYSTAL = "LiCl\n1.0\n0.0 2.6 2.6\n2.6 0.0 2.6\n2.6 2.6 0.0\nLi Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
JOB = shlex.split(
    "--quick --teacher toy_teacher:salt --cutoff 3.6 --temperatures 40 --prepare.relax-steps 50 --label.frames 8 --committee 2 "
    "--label.every-fs 8 --label.equilibration-fs 16 --label.blocks 4 --label.contacts 3 --train.fit.steps 40 "
    "--train.fit.batch-size 4 --train.channels 6 --train.radial 8 --train.hidden 24 --refine.time-ps 0.05 --refine.frames 2 "
    "--validate.replays 4 --validate.drift-ps 0.2 --validate.stability-ps 0.1 --validate.equilibration-ps 0.05 "
    "--validate.speed-repeats 3 --production.time-ps 0.5 --production.equilibration-ps 0.1 --production.runs 2 "
    "--production.cell-ps 0.1 --production.every-fs 10 --production.atoms 16 --production.ions 8 "
    "--production.max-minutes 0.001 --production.no-size-check --production.despite-gates --stride-fs 8 "
    "--hard toy_teacher:stiff --hard-budget 6 --hard-rounds 2 --harden.time-ps 0.1 --refine.every-fs 10 "
    "--strides.segments.segments 4 --strides.segments.blocks 4 --strides.segments.frames 4 --strides.segments.between-fs 16 "
    "--strides.segments.equilibration-ps 0.05 --strides.train.fit.steps 8 --strides.judge.time-ps 0.3 "
    "--strides.judge.longest-ps 0.4 --strides.judge.equilibration-ps 0.05 --strides.judge.every-fs 16 "
    "--strides.judge.repeats 3 --check.frames 2 --threads 1"
)
STAGES = (
    "begin", "prepare", "label", "train", "refine", "harden", "gates", "stride", "production", "check", "before", "end",
)  # fmt: skip
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
CHAINS = {
    "job, early": ("job", (0.02, 0.0, KILL)), "job, middle": ("job", (0.5, 0.0, KILL)), "job, late": ("job", (0.98, 0.0, KILL)),
    "job, between": ("job", (0.3, 0.05, KILL)), "job, asked to stop": ("job", (0.7, 0.0, TERM)),
}  # fmt: skip
"""Place within each stage, seconds after it, signal."""
BITS = (
    "label/*.npz", "label/labels.jsonl", "train/*.mdistill", "refine/**/*.mdistill", "refine/**/*.npz", "refine/labels.txt", "harden/**/*.mdistill", "harden/**/*.npz",
    "stride/*.mdistill", "**/log.csv", "*.mdistill", "*.npz", "labels.jsonl",
)  # fmt: skip
"""Files that are promised to be the same, bit for bit (restarts hold a clock's time, and are left out)."""
CLOCK = ("seconds", "ns_per_day", "us_per_atom", "speed", "µs", "front")


@dataclass(frozen=True)
class Command:
    """A command that writes into a folder, and how it ends when it is not killed."""

    name: str
    words: list[str]
    whole: Path
    ended: Ended


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "licl.vasp").write_text(CRYSTAL)
    return folder


@pytest.fixture(scope="module")
def job(place: Path) -> Command:
    """The job, not killed."""
    with pytest.MonkeyPatch.context() as patched:
        draw_nothing(patched)
        return unkilled("job", ["distill", str(place / "licl.vasp"), *JOB, "--out", "OUT"], place / "job")


def unkilled(name: str, words: list[str], folder: Path) -> Command:
    ended = run_forked(with_folder(words, folder), folder)
    assert ended.status in (0, 4) and "Traceback" not in ended.said, ended.said
    assert not leftovers(folder)
    ended.import_modules()
    return Command(name, words, folder, ended)


def with_folder(words: list[str], folder: Path) -> list[str]:
    return [str(folder) if word == "OUT" else word for word in words]


def content(folder: Path) -> dict[str, Any]:
    """What must not depend on kills: sha256 of files, and values that no clock measured."""
    names = sorted({path for pattern in BITS for path in folder.glob(pattern) if path.name != "restart.npz"})
    files = {str(path.relative_to(folder)): sha256(path) for path in names}
    results = read_results(folder)
    values = {k: v for k, v in results.values.items() if not any(word in f"{k} {v.unit}" for word in CLOCK)}
    return files | {"model": results.provenance.get("model_sha256")} | values


def killed(command: Command, folder: Path, kills: list[Kill], tally: Outcomes, hit: Counter[str]) -> None:
    """Run a command so often that each kill struck, then to its end, and compare."""
    words, number = with_folder(command.words, folder), {KILL: (-KILL,), TERM: (-TERM, 143), INT: (-INT, 130)}
    ended = Ended(0, "")
    for kill in kills:
        ended = run_forked(words, folder, kill)
        assert "Traceback" not in ended.said and "unexpected" not in ended.said, f"{kill}: {ended.said}"
        if ended.status in number[signal.Signals(kill.number)]:
            hit[kill.stage] += 1
            assert kill.number == KILL or ended.status < 0 or "resume" in ended.said, ended.said
            look(folder, kill)
        else:
            assert ended.status == command.ended.status, f"{kill}: {ended.status}, {ended.said}"
    ended = run_forked(words, folder)
    assert "Traceback" not in ended.said and ended.status == command.ended.status, ended.said
    assert not leftovers(folder)
    right, found = content(command.whole), content(folder)
    different = {name for name in right | found if right.get(name) != found.get(name)}
    tally.add("silent" if different else "resumed", f"{[k.stage for k in kills]}: {sorted(different)}")


def look(folder: Path, kill: Kill) -> None:
    """What a kill left can be looked at, and no lock stays."""
    if not folder.exists():
        return
    assert working(folder) is None, f"{kill}: the lock stays"
    seen = run_forked(["info", str(folder)], folder.parent / f"{folder.name}-seen")
    assert seen.status in (0, 2) and "Traceback" not in seen.said and "unexpected" not in seen.said, f"{kill}: {seen.said}"


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("chain", CHAINS)
def test_the_job_is_killed_in_every_stage(chain: str, job: Command, place: Path, trust: Callable[..., None]) -> None:
    share, delay, number = CHAINS[chain][1]
    counts = job.ended.counts
    kills = [
        Kill(stage, max(1, round(share * counts[stage])), number=INT if number == TERM and k % 2 else number, delay_s=delay)
        for k, stage in enumerate(STAGES)
    ]
    tally, hit = Outcomes(), Counter[str]()
    killed(job, place / chain.replace(", ", "-").replace(" ", "-"), kills, tally, hit)
    assert not tally.bad, tally.bad
    assert sum(hit.values()) >= (6 if delay or number == TERM else len(STAGES) - 1), hit
    trust("A", f"{chain}: {sum(hit.values())} kills over {len(hit)} stages", "resumed, bit-equal, no leftovers", "the same")


OTHERS = {
    "vibrations": "vibrations OUT --teacher toy_teacher:salt --displaced 2 --teacher-steps 2 --relax-steps 5 --threads 1",
    "bench": "bench OUT --sizes tiny --minutes 0.02 --repeats 3 --teacher toy_teacher:salt --threads 1",
    "simulate": "simulate STRUCTURE --potential RUN --temperature-K 40 --time-ps 2 --every-fs 20 --threads 1 --out OUT",
    "label": "label STRUCTURE --teacher toy_teacher:salt --temperatures-K 150 --frames 8 --every-fs 8 --equilibration-fs 16 "
    "--contacts 3 --probes 1 --prepare.cutoff 3.6 --threads 1 --out OUT",
    "train": "train potential RUN --channels 6 --radial 8 --hidden 24 --fit.steps 60 --fit.batch-size 4 --threads 1 --out OUT",
}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", OTHERS)
def test_other_commands_are_killed(name: str, job: Command, place: Path, trust: Callable[..., None]) -> None:
    known = {"RUN": str(job.whole), "STRUCTURE": str(job.whole / "prepare" / "structures.extxyz")}
    words, stage = [known.get(word, word) for word in shlex.split(OTHERS[name])], name if name in ("vibrations", "bench") else ""
    whole, other = place / f"{name}-whole", place / f"{name}-killed"
    if stage:
        for folder in (whole, other):
            shutil.copytree(job.whole, folder)
    command = unkilled(name, words, whole)
    events = command.ended.counts[stage]
    kills = [Kill(stage, max(1, round(share * events)), number) for share, number in ((0.3, KILL), (0.4, KILL), (0.5, INT))]
    tally, hit = Outcomes(), Counter[str]()
    killed(command, other, kills, tally, hit)
    assert not tally.bad, tally.bad
    assert sum(hit.values()) >= 2, hit
    trust("A", f"`{name}`: {sum(hit.values())} kills", "resumed, bit-equal, no leftovers", "the same")

"""CP2K as an engine of hard labels: one process per calculation, in a folder of its own.

Each calculation has two attempts; the second has safer settings and starts from atoms. A crash, a time-out, an SCF that does not
converge and numbers that are not finite are failures; `attempts.json` in the folder tells them. At the Γ point the orbitals of
the last converged calculation of the same cell content start the next one: neighbours then need a third of the SCF steps. With
k-points CP2K keeps a density matrix, which belongs to the positions that it was made at: then every one starts from atoms.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput, MdistillError
from mdistill.io.files import replacing, write_json, write_text
from mdistill.io.structures import check_state
from mdistill.labelling.cp2k_files import input_text, read_output, scf_steps
from mdistill.labelling.engine import Answer, Failure
from mdistill.labelling.hard_settings import Cp2kSettings
from mdistill.processes import die_with_parent
from mdistill.types import Prediction, System

INPUT, OUTPUT, WAVEFUNCTION, ATTEMPTS = "run.inp", "run.out", "run-RESTART.wfn", "attempts.json"


@dataclass(frozen=True, slots=True)
class Cp2k:
    """The engine.

    Attributes:
        settings: Program and level of theory.
        name: For results.
        elements: Empty: any that the basis holds.
    """

    settings: Cp2kSettings = field(default_factory=Cp2kSettings)
    name: str = "cp2k"
    elements: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        program = shlex.split(self.settings.command)[:1]
        if not program or shutil.which(program[0]) is None:
            problem, allowed = f"the program {self.settings.command!r} is not found", "a program that the shell finds"
            fix = "apt-get install cp2k (Debian, Ubuntu) or conda install cp2k, or name it with --cp2k.command"
            raise BadInput("engine cp2k", problem, allowed=allowed, fix=fix)

    @property
    def theory(self) -> str:
        """The level of theory, in words."""
        s = self.settings
        points = "Γ point" if s.kpoints == (1, 1, 1) else f"{'×'.join(map(str, s.kpoints))} k-points"
        points += f", electrons at {s.smearing_K:g} K" if s.smearing_K else ""
        return f"CP2K {s.functional}, {s.basis}, {s.cutoff_Ry:g}/{s.relative_cutoff_Ry:g} Ry, {points}"

    def label(
        self, system: System, folder: Path, *, probes: Float[Tensor, "probe atom 3"] | None = None,
        known: Prediction | None = None,
    ) -> Answer | Failure:  # fmt: skip
        """See `Engine.label`. Curvature products are not computed: `probes` must be None."""
        if probes is not None:
            raise BadInput("probes", "asked of cp2k", allowed="none with a hard engine", fix="--probes 0")
        check_state(
            system, by="cp2k", fix="--cp2k.charge; for open shells --engine pyscf", charge=self.settings.charge, unpaired=0
        )
        orbitals, gamma = _orbitals(system, folder.parent), self.settings.kpoints == (1, 1, 1)
        told, answer = [], Failure(reason="not run", retry=False)
        for number, safer in enumerate((False, True)):
            begin = time.monotonic()
            start = orbitals if gamma and orbitals.is_file() and not safer else None
            outcome = self._run(system, folder / f"attempt-{number + 1}", start=start, safer=safer)
            steps, reason = outcome[1], outcome[0].reason if isinstance(outcome[0], Failure) else ""
            told.append({"safer": safer, "from_orbitals": start is not None, "scf_steps": steps, "failure": reason,
                         "seconds": round(time.monotonic() - begin, 1)})  # fmt: skip
            write_json(folder / ATTEMPTS, {"engine": self.theory, "settings": asdict(self.settings), "attempts": told})
            if not isinstance(outcome[0], Failure):
                made = folder / f"attempt-{number + 1}" / WAVEFUNCTION
                with suppress(OSError, MdistillError), replacing(orbitals) as partial:
                    shutil.copyfile(made, partial)
                made.unlink(missing_ok=True)
                return Answer(prediction=outcome[0])
            answer = outcome[0]
            if not answer.retry:
                break
        reasons = "; with safer settings: ".join(str(one["failure"]) for one in told)
        return Failure(reason=reasons)

    def _run(self, system: System, folder: Path, *, start: Path | None, safer: bool) -> tuple[Prediction | Failure, int]:
        """One attempt, and its number of SCF steps."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if start is not None:
            shutil.copyfile(start, folder / f"start{start.suffix}")
        text = input_text(system, self.settings, wavefunction="" if start is None else f"start{start.suffix}", safer=safer)
        write_text(folder / INPUT, text)
        environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        with open(folder / OUTPUT, "wb") as out:
            process = subprocess.Popen(  # noqa: S603  (the user's own program)
                [*shlex.split(self.settings.command), INPUT], cwd=folder, stdout=out, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, env=environment, process_group=0, preexec_fn=die_with_parent,  # noqa: PLW1509
            )  # fmt: skip
            try:
                status = process.wait(timeout=self.settings.timeout_s)
            except subprocess.TimeoutExpired:
                return Failure(reason=f"no answer within {self.settings.timeout_s:g} s", retry=True), 0
            finally:
                _kill(process)
        text = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
        answer = read_output(text, system, self.settings)
        if status != 0 and not isinstance(answer, Failure):
            answer = Failure(reason=f"CP2K ended with status {status}", retry=True)
        for left in [*folder.glob("*.wfn*"), *folder.glob("*.kp*")]:
            if isinstance(answer, Failure) or left.name != WAVEFUNCTION:
                left.unlink()
        return answer, scf_steps(text)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the program and its children, if they still run."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _orbitals(system: System, folder: Path) -> Path:
    """The file of the last orbitals of this cell content, in the folder of all calculations."""
    counts = "-".join(map(str, system.numbers.tolist()))
    return folder / f"orbitals-{hashlib.sha256(counts.encode()).hexdigest()[:12]}.wfn"

"""workflows/verdict.py and the end of a job after a failure: a report all the same, with what to type next, and its status."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from drawing import draw_nothing
from mdistill import cli
from mdistill.analysis.gates import Drift, drift_gate, stability_gate, unstable
from mdistill.analysis.settings import GateLimits
from mdistill.errors import BlowUp
from mdistill.estimates import Estimate, Gate, exactly, gate
from mdistill.runs.results import Results, read_results
from mdistill.types import Graph, Potential, Prediction
from mdistill.workflows import distill as job
from mdistill.workflows.distill_settings import DistillSettings, quick_settings
from mdistill.workflows.verdict import broken_results, with_fixes, withheld

LIMITS = GateLimits()
ROOT = Path(__file__).parents[2]
TINY = shlex.split(
    "--teacher toy_teacher:salt --temperatures 300 400 --committee 1 --prepare.relax-steps 20 --label.frames 10 --label.blocks 5 "
    "--label.every-fs 20 --label.probe-every 20 --train.fit.steps 60 --train.channels 6 --train.radial 8 --train.hidden 24 "
    "--refine.time-ps 0.2 --refine.frames 2 --validate.replays 4 --validate.drift-ps 0.4 --validate.stability-ps 0.2 "
    "--validate.equilibration-ps 0.1 --validate.speed-repeats 3 --production.time-ps 1.2 --production.equilibration-ps 0.1 "
    "--check.frames 4"
)


def drifting(slope: float, error: float) -> Gate:
    estimate = Estimate(value=slope, error=error, unit="eV/atom/ps", samples=100)
    return drift_gate({"600 K": Drift(slope=estimate, fluctuation=replace(estimate, unit="eV/atom"))}, LIMITS)


def test_only_dynamics_that_is_unstable_counts() -> None:
    good = [drifting(1e-6, 1e-7), stability_gate(20.0, 20.0, temperature_K=1080)]
    assert unstable(good) == []
    assert [one.name for one in unstable([drifting(5e-5, 1e-6)])] == ["NVE drift"]
    assert unstable([drifting(1e-6, 1e-4)]) == [] == unstable([drifting(1.5e-5, 1e-5)]), "too short for a verdict"
    assert unstable([drift_gate({"600 K": "stopped at step 7: force"}, LIMITS)]), "a run that broke"
    assert unstable([stability_gate(1.0, 20.0, temperature_K=1080, reason="temperature")])
    assert unstable([gate("force error", exactly(9.0), 1.0)]) == []


def test_production_is_withheld_unless_it_is_asked_for() -> None:
    settings = DistillSettings(structure=Path("x.cif"))
    text = withheld([drifting(5e-5, 1e-6)], settings)
    assert "NVE drift failed" in text and "--production.despite-gates" in text and "--update --label.frames 160" in text
    anyway = replace(settings, production=replace(settings.production, despite_gates=True))
    assert withheld([drifting(5e-5, 1e-6)], anyway) == "" and withheld([], settings) == ""


def test_results_of_a_blow_up_say_what_failed_and_what_to_type() -> None:
    settings = replace(quick_settings(Path("x.cif")), temperatures=(500.0, 700.0, 900.0))
    found = broken_results(Results(command="distill", notes=["older"]), "production", BlowUp(70, "hot", "a file"), settings)
    assert found.gates[0].name == "production MD" and not found.gates[0].passed and "step 70: hot" in found.gates[0].detail
    assert found.notes[0].startswith("The MD of the stage production blew up") and "--temperatures 500 700" in found.notes[0]
    fixed = with_fixes(Results(command="distill", gates=[gate("softening", exactly(2.0), 1.0), drifting(1e-6, 1e-7)]), settings)
    assert "--update --refine.frames 240" in fixed.gates[0].fix and fixed.gates[1].fix == ""


@dataclass(frozen=True)
class Sabotaged:
    """The student with forces that are no gradient, or that explode after some calls."""

    student: Potential
    noise: float = 0.0
    calls: int = 10**9
    asked: list[int] = field(default_factory=list)
    name: str = "sabotaged"

    @property
    def cutoff(self) -> float:
        return self.student.cutoff

    @property
    def elements(self) -> frozenset[int]:
        return self.student.elements

    def __call__(self, graph: Graph) -> Prediction:
        self.asked.append(1)
        found, positions = self.student(graph), graph.system.positions
        wrong = self.noise * torch.sin(1e5 * positions)
        if len(self.asked) > self.calls:
            wrong = wrong + 1e4 * torch.sin(1e3 * positions)
        return replace(found, forces=found.forces + wrong.to(found.forces.dtype))


def flags(structure: Path, out: Path) -> list[str]:
    return ["distill", str(structure), "--quick", *TINY, "--out", str(out)]


@pytest.fixture(scope="module")
def structure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("verdict") / "li6ps5cl.cif"
    shutil.copyfile(ROOT / "examples" / "li6ps5cl.cif", place)
    return place


@pytest.mark.planted
@pytest.mark.slow
def test_a_blow_up_in_production_ends_in_a_report_and_status_3(
    structure: Path, tmp_path: Path, monkeypatch, capsys, trust
) -> None:
    plain = job.produce
    monkeypatch.setattr(
        job,
        "produce",
        lambda starts, members, *more, **named: plain(starts, [Sabotaged(m, calls=50) for m in members], *more, **named),
    )
    assert cli.run([*flags(structure, tmp_path), "--production.despite-gates"]) == 3
    said = capsys.readouterr()
    assert "simulation stopped" in said.err and "✗ FAILED" in said.out and "production MD" in said.out
    results = read_results(tmp_path)
    assert results.gates[-1].name == "production MD" and "--update" in results.gates[-1].fix
    assert results.notes[0].startswith("The MD of the stage production blew up")
    assert "force error" in {one.name for one in results.gates} and results.provenance["model_sha256"]
    assert "production MD" in (tmp_path / "report.html").read_text(encoding="utf-8")
    monkeypatch.setattr(job, "produce", plain)
    draw_nothing(monkeypatch)
    assert cli.run([*flags(structure, tmp_path), "--production.despite-gates"]) in (0, 2, 4)
    trust("T28", "blow-up in production", "report, verdicts, way out, exit 3", "report and exit 3", planted=True)


@pytest.mark.planted
@pytest.mark.slow
def test_production_does_not_begin_with_a_student_whose_nve_fails(
    structure: Path, tmp_path: Path, monkeypatch, capsys, trust
) -> None:
    plain = job._Job._student
    monkeypatch.setattr(job._Job, "_student", lambda self: Sabotaged(plain(self), noise=0.3))
    assert cli.run(flags(structure, tmp_path)) == 4
    results = read_results(tmp_path)
    assert results.notes[0].startswith("Production was not begun: NVE drift")
    assert not (tmp_path / "production").exists() and (tmp_path / "report.html").is_file()
    failed = {one.name: one for one in results.gates if not one.passed}
    assert "--update --label.frames 20" in failed["NVE drift"].fix
    trust("T28", "NVE drift failed", "production withheld, report, exit 4", "report and exit 4", planted=True)

"""After a failure in `mdistill distill`: whether production may begin, what to type next, results up to a blow-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mdistill.analysis.gates import unstable
from mdistill.errors import BlowUp
from mdistill.estimates import Gate, gate, unknown
from mdistill.hardening.hard_tables import ERROR, SOFTENING
from mdistill.runs.results import BROKEN, Results
from mdistill.workflows.distill_settings import DistillSettings

_BETTER_STUDENT = (
    "force error",
    "force error per element",
    "energy error",
    "stress error",
    "RDF overlap",
    "NVE drift",
    "stability",
)
_MORE_FRAMES = ("force error in production", "energy error in production", "overlap with the teacher", "softening")


NOT_FOLLOWED = (
    "Not compared: RDFs and mean square displacement of the teacher in equilibrium; its dynamics lasted about a picosecond. "
    "--check-ps 20 --update follows it for 20 ps"
)
NOT_COMPARED = (
    "Not compared: RDFs with the teacher's dynamics, which are those of the teacher without hard labels. The section what DFT "
    "changed shows them before and after. --check-ps 20 --update follows the corrected teacher for 20 ps"
)


def not_followed(settings: DistillSettings) -> list[str]:
    """What was not compared, where the teacher is not followed."""
    return [] if settings.check_ps is not None else [NOT_COMPARED if settings.hard else NOT_FOLLOWED]


def withheld(gates: Sequence[Gate], settings: DistillSettings) -> str:
    """Why production does not begin: the student's own dynamics is not stable; "" where it may."""
    broken = [] if settings.production.despite_gates else unstable(gates)
    if not broken:
        return ""
    names = " and ".join(one.name for one in broken)
    return (
        f"Production was not begun: {names} failed, so the student's dynamics is not stable. "
        f"Next: {_better(settings)}; or --update --production.despite-gates for production all the same"
    )


def with_fixes(results: Results, settings: DistillSettings) -> Results:
    """The results with what to type next at each failed gate that has none."""
    return replace(results, gates=[g if g.passed or g.fix else replace(g, fix=_fix(g.name, settings)) for g in results.gates])


def broken_results(done: Results, stage: str, blown: BlowUp, settings: DistillSettings) -> Results:
    """Results of the stages before one whose dynamics blew up, with a failed gate for it and a note that comes first."""
    asked = settings.production.time_ps if stage == "production" else settings.validate.stability_ps
    verdict = gate(f"{stage}{BROKEN}", unknown("ps"), asked, str(blown).replace("\n  ", "; "), sense="at least")
    verdict = replace(verdict, fix=_better(settings))
    note = f"The MD of the stage {stage} blew up ({blown.reason}); later stages were not begun. Next: {verdict.fix}"
    return replace(done, gates=[*done.gates, verdict], notes=[note, *done.notes])


def _fix(name: str, settings: DistillSettings) -> str:
    if name in _BETTER_STUDENT:
        return _better(settings)
    if name in (SOFTENING, ERROR):
        return f"twice as many hard labels: --update --hard-budget {2 * settings.hard_budget}"
    if name in _MORE_FRAMES:
        return f"twice as many labels of the student's own dynamics: --update --refine.frames {2 * settings.refine.frames}"
    return ""


def _better(settings: DistillSettings) -> str:
    frames, minutes = 2 * settings.label.frames, 2 * settings.train.fit.max_minutes
    flags = f"--update --label.frames {frames} --train.fit.max-minutes {minutes:g}"
    cooler = settings.temperatures[:-1]
    less = f", or --update --temperatures {' '.join(f'{kelvin:g}' for kelvin in cooler)}" if cooler else ""
    return f"twice the labels and twice the time of training: {flags}{less}"

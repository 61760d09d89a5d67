"""Tables and figures of a validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mdistill.analysis.accuracy import Accuracy, Deviation
from mdistill.analysis.gates import Drift, Overlap, PairScan
from mdistill.analysis.rdf import two_shells
from mdistill.analysis.statistics import Curve
from mdistill.estimates import Estimate
from mdistill.judge.fit_tables import parity_figures
from mdistill.judge.timing import Speed
from mdistill.runs.identity import model_id
from mdistill.runs.results import Cell, Figure, Rung, Series, Table
from mdistill.training.potential import parity
from mdistill.types import LabelledFrame, Potential, Prediction
from mdistill.units import GPA

_SHOWN_RDFS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Measurements of a validation.

    Attributes:
        accuracy: Errors on held-out labels.
        scans: Energy and force of each pair alone.
        speed: Time per force call.
        overlaps: RDF overlap by "pair, temperature".
        curves: RDFs (teacher's, student's) by the same names.
        repeated: Student dynamics of these RDFs.
        broken: Stopped runs: step → reason.
        drifts: NVE drift by temperature, or why that run was stopped.
        mobile: Element symbol of the mobile ion; "": not known.
        energies: Times (ps) and change of the total energy (eV/atom) of the NVE runs.
    """

    accuracy: Accuracy
    scans: dict[str, PairScan]
    speed: Speed
    overlaps: dict[str, Overlap] = field(default_factory=dict)
    curves: dict[str, tuple[Curve, Curve]] = field(default_factory=dict)
    repeated: str = ""
    broken: dict[str, str] = field(default_factory=dict)
    drifts: dict[str, Drift | str] = field(default_factory=dict)
    energies: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    mobile: str = ""


def rungs(measured: Measured, teacher: Potential, student: Potential) -> list[Rung]:
    """Teacher and student: cost of a step, errors of the student."""
    accuracy, speed = measured.accuracy, measured.speed
    drifts = [d.slope for d in measured.drifts.values() if isinstance(d, Drift)]
    errors = {
        "force MAE": accuracy.force["all"].mean_absolute.scaled(1e3, "meV/Å"),
        "energy MAE": accuracy.energy["all"].mean_absolute.scaled(1e3, "meV/atom"),
    }
    if drifts:
        errors["NVE drift"] = max(drifts, key=lambda slope: abs(slope.value or 0.0)).scaled(1e3, "meV/atom/ps")
    note = (
        "Timed alternately on the same structure in one process; errors on held-out time blocks of the teacher's labels; "
        "largest drift of the total energy in NVE runs of the student."
    )
    return [
        Rung(kind="teacher", name=teacher.name, cost=speed.teacher, command="validate", model=model_id(teacher)),
        Rung(
            kind="potential", name=student.name, cost=speed.student, speed_up=speed.ratio, errors=errors, note=note,
            command="validate", model=model_id(student),
        ),
    ]  # fmt: skip


def tables(measured: Measured) -> list[Table]:
    """Errors by group, RDF overlaps."""
    return [_error_table(measured.accuracy), *_rdf_tables(measured)]


def figures(
    measured: Measured, held_out: Sequence[LabelledFrame], predictions: Sequence[Prediction], most_points: int
) -> list[Figure]:
    """Parity plots, RDFs, energy conservation, pair scans."""
    return [
        *parity_figures(parity(held_out, predictions), most=most_points),
        *_rdf_figures(measured),
        *_drift_figures(measured),
        _scan_figure(measured.scans),
    ]


def _error_table(errors: Accuracy) -> Table:
    def cell(deviations: dict[str, Deviation], group: str, factor: float, unit: str) -> Estimate | None:
        return deviations[group].mean_absolute.scaled(factor, unit) if group in deviations else None

    rows: list[list[Cell]] = [
        [
            group, cell(errors.force, group, 1e3, "meV/Å"), 1e3 * deviation.root_mean_square, 1e3 * deviation.component,
            cell(errors.energy, group, 1e3, "meV/atom"), cell(errors.stress, group, 1.0 / GPA, "GPa"),
        ]
        for group, deviation in errors.force.items()
    ]  # fmt: skip
    columns = ["group", "force MAE (meV/Å)", "RMSE (meV/Å)", "mean |Fᵢ| (meV/Å)", "energy MAE (meV/atom)", "stress MAE (GPa)"]
    caption = "Held-out time blocks by temperature and element. Fᵢ: Cartesian component of a force."
    return Table("errors", "Errors on held-out labels", "accuracy", columns, rows, caption)


def _rdf_tables(measured: Measured) -> list[Table]:
    if not measured.overlaps:
        return []
    rows: list[list[Cell]] = [[name, 100.0 * o.divergence, 100.0 * o.noise, o.shift] for name, o in measured.overlaps.items()]
    return [
        Table(
            name="rdf-overlap",
            title="Structure: the student's RDFs against the teacher's",
            section="dynamics",
            columns=["pair", "Jensen–Shannon divergence (%)", "of it sampling noise (%)", "Wasserstein-1 (Å)"],
            rows=rows,
            caption=f"The student repeats the teacher's dynamics, {measured.repeated}: same start, temperatures and times, other "
            "random numbers. Noise: scatter of the replicas. Later times are not compared.",
        )
    ]


def _rdf_figures(measured: Measured) -> list[Figure]:
    """Each pair at its worst temperature, to the end of its second shell: pairs of the mobile ion first, the worst first."""

    def beyond_noise(name: str) -> float:
        return measured.overlaps[name].divergence - measured.overlaps[name].noise

    def pair_of(name: str) -> str:
        return name.partition(",")[0]

    worst = {pair_of(name): name for name in sorted(measured.curves, key=beyond_noise)}
    order = sorted(worst, key=lambda pair: (measured.mobile not in pair.split("–"), -beyond_noise(worst[pair])))
    return [_rdf_figure(worst[pair], measured, folded=k >= _SHOWN_RDFS) for k, pair in enumerate(order)]


def _rdf_figure(name: str, measured: Measured, *, folded: bool) -> Figure:
    theirs, ours = measured.curves[name]
    likeness = measured.overlaps[name]
    shown = theirs.x <= max(two_shells(theirs), two_shells(ours))
    x, curves = theirs.x[shown].tolist(), (theirs.y[shown].tolist(), ours.y[shown].tolist())
    noise = f"{100 * likeness.divergence:.2g} % (sampling noise {100 * likeness.noise:.2g} %)"
    caption = f"First two shells. Jensen–Shannon divergence {noise}, Wasserstein-1 distance {likeness.shift:.3f} Å."
    series = [Series(label="teacher", x=x, y=curves[0], style="dashed"), Series(label="student", x=x, y=curves[1])]
    return Figure(
        name=f"rdf-{name.replace(', ', '-').replace(' ', '')}", title=f"RDF {name}", section="dynamics", x_label="r (Å)",
        y_label="g(r)", series=series, caption=caption, folded=folded,
    )  # fmt: skip


def _drift_figures(measured: Measured) -> list[Figure]:
    series = []
    for name, (times, energies) in measured.energies.items():
        stride = -(-len(times) // 500)
        series.append(Series(label=name, x=times[::stride].tolist(), y=(1e3 * energies[::stride]).tolist()))
    if not series:
        return []
    return [
        Figure(
            name="nve-drift", title="Energy conservation", section="gates", x_label="time (ps)",
            y_label="total energy (meV/atom)", series=series,
            caption="Change of the total energy of the student's NVE dynamics since its start.",
        )
    ]  # fmt: skip


def _scan_figure(scans: dict[str, PairScan]) -> Figure:
    series = []
    for name, scan in scans.items():
        rise = scan.energy - scan.energy.min()
        shown = [k for k in range(0, len(rise), max(1, len(rise) // 80)) if np.isfinite(rise[k]) and rise[k] > 1e-3]
        series.append(Series(label=name, x=[float(scan.distance[k]) for k in shown], y=[float(rise[k]) for k in shown]))
    return Figure(
        name="pair-scan", title="Short-range repulsion", section="gates", x_label="distance (Å)",
        y_label="energy above the minimum (eV)", series=series, kind="logy",
        caption="Student energy of two isolated atoms, from the closest labelled distance inwards.",
    )  # fmt: skip

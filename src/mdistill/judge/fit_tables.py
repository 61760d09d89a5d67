"""What a fit gave, as tables and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan

from mdistill.analysis.accuracy import Deviation
from mdistill.closed_form.posterior import Posterior
from mdistill.estimates import exactly
from mdistill.runs.results import Cell, Figure, Results, Series, Table
from mdistill.training.potential import TrainingResult
from mdistill.units import GPA


def training_results(result: TrainingResult, title: str, *, others: Sequence[TrainingResult] = ()) -> Results:
    """Learning curve and size of one fit; its steps and time, with those of the other members of a committee."""
    rows = [row for row in result.history if row.get("validation")]
    minutes = [float(row["minutes"]) for row in rows]
    key = title.replace(" ", "_")
    series = [
        Series(label="held-out force error (meV/Å)", x=minutes, y=[1e3 * row["validation"].get("forces", nan) for row in rows]),
        Series(
            label="held-out energy error (0.1 meV/atom)",
            x=minutes,
            y=[1e4 * row["validation"].get("energy", nan) for row in rows],
            style="dashed",
        ),
    ]
    figure = Figure(
        f"history_{key}", f"Learning curve, {title}", "training", "training time (min)", "mean error", series, kind="logy"
    )
    values = {
        "parameters": exactly(result.parameters),
        "train_frames": exactly(result.train_frames),
        "held_out_frames": exactly(result.held_out_frames),
    }
    if result.curvature_error is not None:
        values["curvature_error"] = exactly(result.curvature_error, samples=result.held_out_frames)
    values["fit_steps"] = exactly(result.steps)
    return Results(
        command="train", values=values, figures=[figure] if rows else [], tables=[_steps([result, *others], title)],
        notes=[one.note for one in (result, *others) if one.note], provenance={"model_sha256": result.sha256},
    )  # fmt: skip


def _steps(results: Sequence[TrainingResult], title: str) -> Table:
    """Steps and time of fits."""
    rows: list[list[Cell]] = [
        [f"student {k}", one.steps, one.cpu_minutes, one.wall_minutes, one.ended] for k, one in enumerate(results, 1)
    ]
    columns = ["student", "steps", "CPU time (min)", "wall time (min)", "ended by"]
    caption = "A time budget counts CPU time, so a busy machine takes longer but does as many steps."
    return Table(f"steps_{title.replace(' ', '_')}", f"Steps and time, {title}", "training", columns, rows, caption)


def closed_form_results(result: TrainingResult, posterior: Posterior, within: Mapping[str, float]) -> Results:
    """Size of a closed-form fit, the spread of its residuals, and how well its error bars hold on the held-out blocks."""
    units = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³", "curvature": "eV/Å²"}
    rows: list[list[Cell]] = [["weights", result.parameters], ["weights that the data determine", round(posterior.effective)]]
    rows += [["ridge", posterior.ridge]]
    rows += [[f"spread of residuals, {kind} ({units[kind]})", value] for kind, value in posterior.noise.items()]
    rows += [[f"held-out force errors {name.replace('sigma', 'σ')} (%)", 100.0 * share] for name, share in within.items()]
    caption = "A good error bar holds 68 % of the errors within 1σ and 95 % within 2σ."
    table = Table("closed_form", "Closed-form fit", "training", ["what", "value"], rows, caption)
    counted = {"train_frames": result.train_frames, "held_out_frames": result.held_out_frames, "parameters": result.parameters}
    values = {name: exactly(count) for name, count in counted.items()}
    values |= {f"force_errors_{k.replace(' ', '_')}": exactly(v) for k, v in within.items()}
    return Results(command="train", values=values, tables=[table], provenance={"model_sha256": result.sha256})


def accuracy_results(result: TrainingResult) -> Results:
    """Errors on the held-out blocks by temperature and element, and parity plots."""
    tables = [
        _errors("force", "Force error on held-out blocks", "meV/Å", 1e3, result.accuracy.force),
        _errors("energy", "Energy error on held-out blocks", "meV/atom", 1e3, result.accuracy.energy),
        _errors("stress", "Stress error on held-out blocks", "GPa", 1.0 / GPA, result.accuracy.stress),
    ]
    return Results(command="train", tables=[table for table in tables if table.rows], figures=parity_figures(result.parity))


def parity_figures(pairs: Mapping[str, Sequence[tuple[float, float]]], *, most: int = 10_000) -> list[Figure]:
    """Labels of held-out blocks against the student's answers, by quantity; of more points than `most` every n-th."""
    names = {
        "force": ("Force components", "meV/Å", 1e3), "energy": ("Energy", "meV/atom", 1e3),
        "stress": ("Stress components", "GPa", 1.0 / GPA),
    }  # fmt: skip
    caption, drawn = "Labels of held-out time blocks against the student's answers.", list[Figure]()
    for name, points in pairs.items():
        (title, unit, factor), shown = names[name], points[:: max(1, -(-len(points) // most))]
        origin = sum(x for x, _ in points) / max(len(points), 1) if name == "energy" else 0.0
        x, y = ([factor * (pair[k] - origin) for pair in shown] for k in (0, 1))
        series = Series(label=title, x=x, y=y, style="points")
        drawn.append(
            Figure(name=f"parity-{name}", title=title, section="accuracy", x_label=f"teacher ({unit})",
                   y_label=f"student ({unit})", series=[series], kind="parity",
                   caption=caption + (" Both relative to the mean label." if name == "energy" else ""))
        )  # fmt: skip
    return drawn


def _errors(name: str, title: str, unit: str, scale: float, groups: Mapping[str, Deviation]) -> Table:
    rows: list[list[Cell]] = [
        [group, one.mean_absolute.scaled(scale, unit), scale * one.root_mean_square, scale * one.scale]
        for group, one in groups.items()
    ]
    columns = ["group", f"MAE ({unit})", f"RMSE ({unit})", f"size of the quantity ({unit})"]
    return Table(name=f"errors_{name}", title=title, section="accuracy", columns=columns, rows=rows)

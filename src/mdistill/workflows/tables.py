"""Tables and figures of the stages that have no analysis of their own: relaxation and training."""

from __future__ import annotations

from mdistill.data.prepare import Preparation
from mdistill.io.results import Figure, Results, Series, Table
from mdistill.training.potential import TrainingResult
from mdistill.types import Estimate


def relaxation_table(done: Preparation) -> Table:
    """How each kept ordering relaxed with the teacher."""
    rows = [
        [
            f"{k}",
            system.n_atoms,
            one.energy / system.n_atoms,
            one.max_force,
            one.pressure,
            100.0 * one.strain,
            one.steps,
            "yes" if one.converged else "no",
        ]
        for k, (system, one) in enumerate(zip(done.systems, done.relaxations, strict=True), start=1)
    ]
    return Table(
        name="relaxation",
        title="Orderings relaxed by the teacher",
        section="structure",
        rows=list(map(list, rows)),
        columns=[
            "ordering",
            "atoms",
            "energy (eV/atom)",
            "max |F| (eV/Å)",
            "pressure (GPa)",
            "volume change (%)",
            "calls",
            "converged",
        ],
    )


def training_results(result: TrainingResult, title: str) -> Results:
    """Learning curve and size of one fit."""
    rows = [row for row in result.history if row.get("validation")]
    minutes = [float(row["minutes"]) for row in rows]
    key = title.replace(" ", "_")
    series = [
        Series(label="held-out force error (meV/Å)", x=minutes, y=[1e3 * float(row["validation"]["forces"]) for row in rows]),
        Series(
            label="held-out energy error (0.1 meV/atom)",
            x=minutes,
            y=[1e4 * float(row["validation"]["energy"]) for row in rows],
            style="dashed",
        ),
    ]
    figure = Figure(
        name=f"history_{key}",
        title=f"Learning curve, {title}",
        section="training",
        kind="logy",
        x_label="training time (min)",
        y_label="mean error",
        series=series,
    )
    values = {
        "parameters": Estimate(value=float(result.parameters), error=None, unit=""),
        "train_frames": Estimate(value=float(result.train_frames), error=None, unit=""),
        "held_out_frames": Estimate(value=float(result.held_out_frames), error=None, unit=""),
    }
    if result.curvature_error is not None:
        values["curvature_error"] = Estimate(value=result.curvature_error, error=None, unit="", samples=result.held_out_frames)
    return Results(command="train", values=values, figures=[figure] if rows else [], provenance={"model_sha256": result.sha256})

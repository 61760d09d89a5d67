"""Tables of predicted motion: the ranking of a screening, and a narrow one for terminals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mdistill.estimates import Estimate
from mdistill.runs.results import Cell, Figure, Series, Table
from mdistill.screening.candidates import Candidate
from mdistill.transport.motion import MotionModel
from mdistill.transport.predict_motion import StructureMotion

MOTION = "motion"
_PLAIN = {"Å²": "A2", "cm²/s": "cm2_s", "S/cm": "S_cm", "σ": "sigma", "%": "percent", "(": "", ")": "", " ": "_"}
_DRAWN = 6
"""Number of structures in the figure."""
EQUAL = 0.002
"""Distance below which a composition counts as one of the training set."""


Ranked = Sequence[tuple[StructureMotion, Candidate]]


def ranked_by_motion(candidates: Sequence[Candidate], model: MotionModel) -> list[tuple[StructureMotion, Candidate]]:
    """Structures with a predicted motion, the largest displacement at the lowest temperature that training knows first."""
    found, low = [(one.motion, one) for one in candidates if one.motion is not None], min(model.temperatures_K)
    kelvins = [at.temperature_K for at in found[0][0].motions] if found else []
    place = next((k for k, kelvin in enumerate(kelvins) if kelvin >= low), -1)
    return sorted(found, key=lambda pair: (-pair[0].motions[place].value, pair[1].name))


def motion_table(ranked: Ranked, model: MotionModel) -> Table:
    """MSD, D, σ and activation energy of every structure, best first."""
    kelvins = [one.temperature_K for one in ranked[0][0].motions] if ranked else []
    parts = ("log10 D {:g} K (cm²/s)", "log10 σ {:g} K (S/cm)", "not diffusing {:g} K (%)", "95 % half width {:g} K")
    columns = ["rank", "file", "formula", *(f"log10 MSD {kelvin:g} K (Å²)" for kelvin in kelvins), "E_a (eV)", "applicable"]
    columns += [*(part.format(kelvin) for part in parts for kelvin in kelvins), "notes"]
    rows: list[list[Cell]] = []
    for rank, (found, one) in enumerate(ranked, 1):
        wide = (round(at.interval_95[1] - at.value, 2) for at in found.motions)
        still = (None if at.not_diffusing is None else round(100.0 * at.not_diffusing) for at in found.motions)
        rows.append([
            rank, one.name, one.formula, *_estimates(found, "value"), _activation(found), "; ".join(found.doubts) or "yes",
            *_estimates(found, "diffusivity"), *_estimates(found, "conductivity"), *still, *wide,
            "; ".join(one.notes),
        ])  # fmt: skip
    energy = " E_a is not predicted: a constant does as well."
    if model.activation:
        energy = " E_a: of D over the temperatures of training at which ions diffuse more likely than not;"
        energy += f" 95 %: ± {model.activation[1]:.2f} eV."
    caption = (
        f"MSD: mean square displacement of the mobile ion in {model.lag_ps:g} ps. D = MSD/(6 · {model.lag_ps:g} ps): an upper"
        f" limit where ions do not diffuse. σ: independent ions of charge e (Haven ratio 1). ±: 68 % interval.{energy}"
    )
    return Table(MOTION, "Motion of the ions, predicted", "screening", columns, rows, caption)


def _estimates(found: StructureMotion, quantity: str) -> list[Estimate]:
    """A quantity at each temperature with its 68 % half width, that of the value."""
    return [
        Estimate(value=round(getattr(at, quantity), 4), error=round(at.interval_68[1] - at.value, 4), unit="")
        for at in found.motions
    ]


def _activation(found: StructureMotion) -> Cell:
    if found.activation is None:
        return None
    error = round(found.activation_error[0], 4) if found.activation_error else None
    return Estimate(value=round(found.activation, 4), error=error, unit="eV")


def motion_notes(ranked: Ranked, model: MotionModel) -> list[str]:
    """What the numbers are, and what they are not."""
    errors, flat = (", ".join(f"{value:.2f}" for value in one.values()) for one in (model.error, model.constant))
    low, high, kelvins = min(model.temperatures_K), max(model.temperatures_K), ", ".join(f"{one:g}" for one in model.error)
    what = "MSD, D, σ and E_a" if model.activation else "MSD, D and σ"
    texts = [
        f"{what} at {low:g} to {high:g} K are predicted from dynamics of students of {model.teacher} for {model.crystals}"
        f" crystals. Mean absolute error for other compositions at {kelvins} K: {errors} decades (a constant: {flat}). The error"
        " of those dynamics comes on top, and what melts is not in them. For a value: mdistill distill"
    ]
    texts += dict.fromkeys(doubt for found, _ in ranked[:1] for at in found.motions for doubt in at.doubts)
    if inside := sum(found.distance < EQUAL for found, _ in ranked):
        texts.append(f"{inside} of {len(ranked)} compositions are in the trajectory set: their motion repeats that of the set")
    if doubtful := sum(bool(found.doubts) for found, _ in ranked):
        texts.append(f"{doubtful} of {len(ranked)} structures are unlike those of the trajectory set (column applicable)")
    return texts


def motion_figure(ranked: Ranked) -> Figure:
    """D against 1/T of the best structures."""
    series = []
    for found, one in ranked[:_DRAWN]:
        x, y = [1000.0 / at.temperature_K for at in found.motions], [10.0**at.diffusivity for at in found.motions]
        series.append(Series(label=one.name, x=x, y=y, style="line"))
        limits = [k for k, at in enumerate(found.motions) if (at.not_diffusing or 0.0) > 0.5]
        if limits:
            marked = {"x": [x[k] for k in limits], "y": [y[k] for k in limits]}
            series.append(Series(label=f"{one.name} upper limit", subject=one.name, style="points", limit=True, **marked))
    caption = f"The best {min(len(ranked), _DRAWN)} of {len(ranked)}, predicted; intervals are in the table."
    return Figure(
        MOTION, "Diffusivity, predicted", "screening", "1000/T (1/K)", "D (cm²/s)", series, kind="arrhenius", caption=caption
    )


def kelvins_of(table: Table) -> dict[str, int]:
    """Temperatures (K) of the ranking, and the columns of their log10 MSD."""
    return {name.split()[2]: k for k, name in enumerate(table.columns) if name.startswith("log10 MSD")}


def narrow_motion(table: Table, *, width: int | None = None) -> Table:
    """The ranking with the columns that a terminal of this width has room for: log10 MSD ± 68 %, and the activation energy.

    Where it has room for some temperatures only, that of the ranking is among them.
    """
    place = {name: k for k, name in enumerate(table.columns)}
    moved = kelvins_of(table)
    if width is not None and width < 90:
        first = next((at for at, k in enumerate(moved.values()) if _descending([row[k] for row in table.rows])), 0)
        count = 1 if width < 60 else 3
        first = min(first, max(len(moved) - count, 0))
        moved = dict(list(moved.items())[first : first + count])
    told = any(row[place["E_a (eV)"]] is not None for row in table.rows)
    with_energy, with_formula = told and (width is None or width >= 60), width is None or width >= 110
    with_verdict = with_formula or (not told and width is not None and width >= 60)
    columns = ["rank", "file", *(["formula"] if with_formula else []), *(f"{kelvin} K" for kelvin in moved)]
    columns += ["E_a (eV)"] * with_energy + ["applicable"] * with_verdict
    rows: list[list[Cell]] = []
    for row in table.rows:
        cells = [row[0], row[1], *([row[2]] if with_formula else []), *(row[k] for k in moved.values())]
        cells += [row[place["E_a (eV)"]]] * with_energy + ["yes" if row[place["applicable"]] == "yes" else "no"] * with_verdict
        rows.append(cells)
    return Table(MOTION, "Predicted log10 MSD (Å²) ± 68 %", table.section, columns, rows)


def _descending(cells: Sequence[Cell]) -> bool:
    values = [cell.value for cell in cells if isinstance(cell, Estimate) and cell.value is not None]
    return all(high >= low for high, low in pairwise(values))


def plain(column: str) -> str:
    """Name of a column in a CSV file."""
    name = column
    for sign, letters in _PLAIN.items():
        name = name.replace(sign, letters)
    return f"motion_{name}" if column in ("rank", "applicable", "notes") else name

"""Tables of a screening: ranked conductivities for results.json and the page, a narrow one for terminals, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from mdistill.estimates import Estimate, exactly
from mdistill.runs.results import Cell, Figure, Results, Series, Table
from mdistill.screening.candidates import Candidate, Refusal
from mdistill.screening.motion_tables import EQUAL, MOTION, motion_figure, motion_notes, motion_table, plain, ranked_by_motion
from mdistill.transport.correction import worth
from mdistill.transport.model import BASES, CORRECTED, TransportModel
from mdistill.transport.motion import MotionModel
from mdistill.transport.predict import RoomConductivity
from mdistill.transport.settings import FLOOR

SIGMA = "log10 σ(300 K) (S/cm)"
NAME = "screen"
_MINUS = "−"
_CSV = (
    "rank", "file", "formula", "log10_sigma_S_cm", "low_95", "high_95", "below_detection_percent", "applicable",
    "basis", "correction", "space_group", "nearest", "distance", "nearest_log10_measured", "notes",
)  # fmt: skip
"""Names in the CSV file of the columns of the ranking."""
HALF = {"log10_sigma_S_cm": "half_width_68"}
"""Names of half widths that are not NAME_half_width_68."""


def screen_results(
    candidates: Sequence[Candidate], refused: Sequence[Refusal], model: TransportModel | None, motion: MotionModel | None = None,
    *, left_out: int = 0,
) -> Results:  # fmt: skip
    """Results of a screening, the highest conductivity (without a model of it: the largest displacement) first."""
    results = Results(
        command="screen", citations=[], values={"structures_predicted": exactly(len(candidates)),
        "structures_refused": exactly(len(refused))}, notes=_left_out(left_out), provenance={},
    )  # fmt: skip
    if motion is not None:
        shown = ranked_by_motion(candidates, motion)
        results.tables.append(motion_table(shown, motion))
        results.figures.append(motion_figure(shown))
        results.notes[:0] = motion_notes(shown, motion)
        results.citations.extend(["transport-taught"] * bool(motion.predictor.nets) + ["sevennet"])
        results.provenance["motion_crystals"] = motion.crystals
    if model is not None:
        known = [(one.conductivity, one) for one in candidates if one.conductivity is not None]
        ranked = sorted(known, key=lambda pair: (-pair[0].value, pair[1].name))
        results.tables.insert(0, _ranking(ranked))
        results.figures.insert(0, _figure([sigma for sigma, _ in ranked]))
        results.notes[:0] = notes([sigma for sigma, _ in ranked], model, motion=motion is not None)
        corrected = any(sigma.basis == CORRECTED for sigma, _ in ranked)
        results.citations.extend(["obelix", *["sevennet"] * (corrected and motion is None)])
        results.provenance["model_sha256"] = model.header.get("sha256", "")
    if refused:
        rows: list[list[Cell]] = [[one.name, one.reason, one.fix] for one in refused]
        title = f"Not predicted: {len(refused)} of {len(refused) + len(candidates)} structures"
        results.tables.append(Table("unread", title, "screening", ["file", "reason", "fix"], rows))
    return results


def notes(ranked: Sequence[RoomConductivity], model: TransportModel, *, motion: bool) -> list[str]:
    """What the numbers are, and what they are not."""
    errors = " and ".join(f"{model.bases[name].error:.1f} ({what})" for name, what in BASES.items())
    texts = [
        "σ(300 K) is a prediction from the statistics of measured conductivities (OBELiX), not from MD. Its mean absolute error"
        f" for materials of other papers and compositions is {errors} decades. Measurements of one composition differ by"
        " 0.6 decades on average." + ("" if motion else " MSD, D and σ of the ions' motion: --temperature 300 600 800 1000 1200")
    ]
    doubtful = sum(bool(one.doubts) for one in ranked)
    without = sum(one.basis == "composition" for one in ranked)
    inside = sum(one.distance < EQUAL for one in ranked)
    if inside:
        texts.append(f"{inside} of {len(ranked)} compositions are in the training set: their values repeat measured ones")
    if doubtful:
        texts.append(f"{doubtful} of {len(ranked)} structures lie outside the training set (column applicable): trust them less")
    if without:
        be = "is" if without == 1 else "are"
        texts.append(
            f"{without} of {len(ranked)} structures {be} ordered and triclinic or monoclinic. Such a cell may be one ordering of"
            " a disordered crystal, so the composition alone was used (column basis)"
        )
    corrected = sum(one.basis == CORRECTED for one in ranked)
    if model.correction is not None and corrected:
        texts.append(f"{corrected} of {len(ranked)} values are corrected (column correction, decades). {worth(model.correction)}")
    return texts


_DRAWN = 60
"""Number of structures in the figure."""
_SAID = {CORRECTED: "corrected by ion sites and predicted motion", **BASES}
"""What the value of each basis is made of."""


def _left_out(count: int) -> list[str]:
    return (
        [f"files of the folder that were not opened, because their names are not those of structures: {count}"] if count else []
    )


def _ranking(ranked: Sequence[tuple[RoomConductivity, Candidate]]) -> Table:
    columns = [
        "rank", "file", "formula", SIGMA, "95 % from", "95 % to", "below detection (%)", "applicable", "basis", "correction",
        "space group", "nearest in training", "its distance", "its measured log10 σ", "notes",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for rank, (sigma, one) in enumerate(ranked, 1):
        rows.append([
            rank, one.name, one.formula, estimate(sigma), *(round(end, 2) for end in sigma.interval_95),
            round(100.0 * sigma.below_detection), "; ".join(sigma.doubts) or "yes", sigma.basis,
            round(sigma.correction, 2) if sigma.basis == CORRECTED else None, one.space_group or "not known",
            sigma.nearest, round(sigma.distance, 3), round(sigma.nearest_measured, 2), "; ".join(one.notes),
        ])  # fmt: skip
    caption = (
        "Predicted from the statistics of measured conductivities, not from MD. ±: 68 % interval. Below detection: less than"
        f" 10⁻⁸ S/cm. An interval that begins at {_tenth(FLOOR)} is open: lower conductivities count as this value."
        " Distance of compositions: 0 equal, 1 no element in common."
    )
    return Table(NAME, "Ionic conductivity at 300 K, predicted", "screening", columns, rows, caption)


def estimate(sigma: RoomConductivity) -> Estimate:
    """log10 σ ± its 68 % interval, with the 95 % interval left to its own column."""
    return Estimate(value=round(sigma.value, 4), error=round(sigma.interval_68[1] - sigma.value, 4), unit="")


def _tenth(value: Any) -> str:
    return f"{float(value):.1f}".replace("-", _MINUS)


def narrow_table(table: Table, *, width: int | None = None) -> Table:
    """The ranking with the columns that a terminal of this width has room for.

    Args:
        table: The ranking of a screening.
        width: Columns of the terminal (default: no limit).
    """
    place = {name: k for k, name in enumerate(table.columns)}
    shown: dict[str, Callable[[list[Cell]], Cell]] = {name: itemgetter(place[name]) for name in ("rank", "file", "formula")}
    shown |= {
        "log10 σ": itemgetter(place[SIGMA]),
        "95 %": lambda row: f"{_tenth(row[place['95 % from']])} to {_tenth(row[place['95 % to']])}",
        "below (%)": itemgetter(place["below detection (%)"]),
        "applicable": lambda row: "yes" if row[place["applicable"]] == "yes" else "no",
    }
    left_out = {"formula"} if width is not None and width < 110 else set()
    left_out |= {"95 %", "below (%)", "applicable"} if width is not None and width < 60 else set()
    columns = [name for name in shown if name not in left_out]
    rows = [[shown[name](row) for name in columns] for row in table.rows]
    title = "Conductivity at 300 K, predicted from measured ones: log10 of S/cm ± 68 %"
    return Table(NAME, title, table.section, columns, rows)


def best_names(results: Results, most: int) -> list[str]:
    """Names of the best structures to which the model is applicable."""
    table = results.tables[0]
    name, applicable = table.columns.index("file"), table.columns.index("applicable")
    return [str(row[name]) for row in table.rows if row[applicable] == "yes"][:most]


def screen_csv(results: Results) -> str:
    """The rankings as CSV, joined by file, with plain column names, for spreadsheets and pandas."""
    found: dict[str, dict[str, Any]] = {}
    for table in results.tables:
        if table.name in (NAME, MOTION):
            names = _CSV if table.name == NAME else tuple(plain(one) for one in table.columns)
            for row in table.rows:
                kept = found.setdefault(str(row[1]), {})
                for name, cell in zip(names, row, strict=True):
                    kept[name] = cell.value if isinstance(cell, Estimate) else cell
                    if isinstance(cell, Estimate):
                        kept[HALF.get(name, f"{name}_half_width_68")] = cell.error
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.values())
    return text.getvalue()


def _figure(ranked: Sequence[RoomConductivity]) -> Figure:
    """Conductivity against rank of the best with 68 % intervals, one series for each basis."""
    series, drawn = [], ranked[:_DRAWN]
    for basis, what in _SAID.items():
        chosen = [(rank, one) for rank, one in enumerate(drawn, 1) if one.basis == basis]
        if chosen:
            y = [sigma.value for _, sigma in chosen]
            error = [sigma.interval_68[1] - sigma.value for _, sigma in chosen]
            series.append(Series(label=what, x=[float(rank) for rank, _ in chosen], y=y, error=error, style="points"))
    return Figure(
        "screen", "Ionic conductivity at 300 K by rank", "screening", "rank", "log10 σ(300 K) (S/cm)", series,
        caption=f"The best {len(drawn)} of {len(ranked)}. Predicted from measured conductivities; bars: 68 % intervals.",
    )  # fmt: skip

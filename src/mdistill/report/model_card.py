"""The card of a model file: its teacher, labels, errors, gates and size, its sha256, and what to cite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase.data import chemical_symbols

from mdistill.analysis.taught import TAUGHT, Taught, read_taught
from mdistill.errors import BadInput
from mdistill.nets.catalogue import MAPS
from mdistill.nets.model_files import read_header, read_metadata
from mdistill.nets.settings import SIZES
from mdistill.report.citations import reference, works
from mdistill.runs.results import Cell, Results, Table, read_results
from mdistill.teachers.cards import card_of
from mdistill.teachers.tuned import KIND as TUNED
from mdistill.training.committee import members_beside
from mdistill.units import GPA

_UNTOLD, TRANSPORT, MOTION = "not told by this file", "transport", "motion"
_QUANTITIES = (("force", "force (meV/Å)", 1e3), ("energy", "energy/atom (meV)", 1e3), ("stress", "stress (GPa)", 1.0 / GPA))


def model_card(path: Path) -> Results:
    """The card of a student, map, predictor or tuned teacher.

    Raises:
        BadInput: No model file.
    """
    header = read_metadata(path)
    made, title = header["provenance"], f"Model {path.name}"
    if header["kind"] == TRANSPORT:
        return Results(
            command="info", tables=[_card(title, [*_transport_rows(path, header), *_file_rows(path, header)]), _cited("obelix")]
        )
    if header["kind"] == MOTION:
        known = card_of(str(header["settings"]["teacher"]))
        cited = _cited("transport-taught", *([] if known is None else known.citations))
        return Results(command="info", tables=[_card(title, [*_motion_rows(header), *_file_rows(path, header)]), cited])
    if header["kind"] in MAPS:
        return Results(command="info", tables=[_card(title, [*_map_rows(header), *_file_rows(path, header)])])
    if header["kind"] == TUNED:
        card = _card(title, [*_tuned_rows(header), *_file_rows(path, header)])
        return Results(command="info", tables=[card, _citations(str(header["settings"].get("teacher")), None)])
    taught, teacher = read_taught(made.get(TAUGHT)), str(made.get("teacher") or "")
    rows: list[list[Cell]] = [["model", _network(header)], ["teacher", _teacher(teacher)]]
    rows += [["formula", str(made.get("formula") or _UNTOLD)], ["elements", _symbols(header)]]
    rows += _label_rows(made, taught)
    rows += [["cutoff", f"{_number(header['settings'].get('cutoff'))} Å"]]
    rows += [["committee", f"{1 + len(members)} students"]] if (members := members_beside(path)) else []
    run = _run_of(path, str(header["sha256"]))
    rows += [] if run is None else [["run", str(run[0])]]
    tables = [_card(title, [*rows, *_file_rows(path, header)]), *_error_tables(made.get("errors"))]
    gates = [] if run is None else run[1].gates
    return Results(
        command="info",
        tables=[*tables, _citations(teacher, None if run is None else run[0])],
        gates=gates,
        provenance={"model_sha256": header["sha256"]},
    )


def _card(title: str, rows: list[list[Cell]]) -> Table:
    return Table("model", title, "settings", ["what", "value"], rows)


def _symbols(header: Mapping[str, Any]) -> str:
    known = [z for z in header["elements"] if isinstance(z, int) and 0 < z < len(chemical_symbols)]
    return ", ".join(chemical_symbols[z] for z in known)


def _network(header: Mapping[str, Any]) -> str:
    settings, made = header["settings"], header["provenance"]
    size = next(
        (name for name, parts in SIZES.items() if all(settings.get(k) == v for k, v in parts.items() if k != "cutoff")), ""
    )
    parts = [f"{header['kind']} net", *([f"size {size}"] if size and header["kind"] == "moment" else [])]
    parts += ["closed-form fit"] if made.get("fit") == "closed-form" else []
    steps = made.get("steps")
    return ", ".join([*parts, *([f"{steps} steps"] if isinstance(steps, int) else [])])


def _teacher(name: str) -> str:
    card = card_of(name)
    return name or _UNTOLD if card is None else f"{card.name}: {card.functional}, trained on {card.data}"


def _label_rows(made: Mapping[str, Any], taught: Taught | None) -> list[list[Cell]]:
    counts = [f"{made[key]} {what}" for key, what in (("train_frames", "fitted"), ("held_out_frames", "held out")) if key in made]
    if taught is None:
        return [["labels", ", ".join(counts) or _UNTOLD], ["taught", f"{_UNTOLD} (an older version wrote it)"]]
    kelvins = ", ".join(f"{kelvin:g}" for kelvin in taught.temperatures_K)
    rows: list[list[Cell]] = [["temperatures", f"{kelvins} K" if kelvins else "none: no labels from MD"]]
    rows += [["labels", ", ".join(counts)]] if counts else []
    rows += [["labels from", ", ".join(f"{name} {count}" for name, count in taught.sources.items())]] if taught.sources else []
    rows.append(["composition", ", ".join(f"{symbol} {_range(pair, 100.0)} %" for symbol, pair in taught.shares.items())])
    rows += [["volume", f"{_range(taught.volumes, 1.0)} Å³ per atom"]] if taught.volumes else []
    pairs = ", ".join(f"{name.replace('-', '–')} {distance:.2f}" for name, distance in taught.closest.items())
    rows += [["closest pairs", f"{pairs} Å"]] if pairs else []
    return rows


def _range(pair: Any, factor: float) -> str:
    low, high = (factor * float(value) for value in pair)
    return f"{low:.3g}" if high - low < 1e-3 * max(high, 1e-9) else f"{low:.3g} to {high:.3g}"


def _map_rows(header: Mapping[str, Any]) -> list[list[Cell]]:
    settings, made = header["settings"], header["provenance"]
    strides = " to ".join(dict.fromkeys(_number(value) for value in settings.get("strides_fs", [settings.get("stride_fs")])))
    return [
        ["model", f"long-stride map, {header['kind']}"], ["stride", f"{strides} fs"], ["elements", _symbols(header)],
        ["its student", f"sha256 {made.get('potential', _UNTOLD)}"],
    ]  # fmt: skip


def _tuned_rows(header: Mapping[str, Any]) -> list[list[Cell]]:
    """Which teacher was trained further, from which weights, and on how many labels of which level of theory."""
    settings, made = header["settings"], header["provenance"]
    labels = f"{made.get('labels', _UNTOLD)} hard labels"
    return [
        ["model", "a teacher whose weights are trained further on hard labels"],
        ["use", "--teacher of mdistill distill and label; --potential of mdistill simulate"],
        ["trained from", _teacher(str(settings.get("teacher") or ""))], ["its sha256", str(settings.get("sha256") or _UNTOLD)],
        ["trained on", labels], ["level of theory", str(made.get("engine") or _UNTOLD)],
        ["cutoff", f"{settings['cutoff']:g} Å" if isinstance(settings.get("cutoff"), (int, float)) else _UNTOLD],
        ["elements", _symbols(header)],
    ]  # fmt: skip


def _transport_rows(path: Path, header: Mapping[str, Any]) -> list[list[Cell]]:
    """What the predictor of conductivities is, what it was trained on, its errors and limits."""
    from mdistill.transport.correction import INPUTS, worth
    from mdistill.transport.model import load_transport

    corrected: list[list[Cell]] = [["correction", "none: trained without CIFs"]]
    if (one := load_transport(path).correction) is not None:
        corrected = [["corrected by", "; ".join(INPUTS)], ["correction", worth(one)], ["its model of motion", one.motion]]
    settings, made = header["settings"], header["provenance"]
    errors = settings.get("errors", {})
    scatter = ", ".join(f"± {value:.1f} ({level} %)" for value, level in zip(settings.get("scatter", ()), (68, 95), strict=False))
    return [
        ["model", "extremely randomised trees: structure → ionic conductivity at 300 K"],
        ["use", "mdistill screen: ranks Li conductors; not MD, no diffusivities, no other temperatures"],
        ["trained on", f"{made.get('data', _UNTOLD)}; {made.get('entries', '?')} entries in {made.get('groups', '?')} groups"],
        ["below detection", f"{made.get('below_detection', '?')} entries, {made.get('upper_bounds', '?')} of them upper bounds"],
        ["licence of the data", f"{made.get('licence', _UNTOLD)}; {made.get('citation', '')}"],
        ["data sha256", str(made.get("data_sha256") or _UNTOLD)],
        ["error, other groups", ", ".join(f"{error:.2f} decades ({name})" for name, error in errors.items())],
        *corrected,
        ["narrowest intervals", f"{scatter} decades: repeated measurements scatter like this"],
        ["usual distance", f"up to {settings.get('far', math.nan):.2f} to the nearest composition"],
        ["elements", _symbols(header)],
    ]


def _motion_rows(header: Mapping[str, Any]) -> list[list[Cell]]:
    """What the predictor of motion is, what it was trained on, its errors and limits."""
    settings, made = header["settings"], header["provenance"]
    flat, kelvins = dict(settings["constant"]), [kelvin for kelvin, _ in settings["error"]]
    errors = ", ".join(f"{error:.2f} ({kelvin:g} K; a constant {flat[kelvin]:.2f})" for kelvin, error in settings["error"])
    ions = ", ".join(chemical_symbols[z] for z in settings["mobile"])
    return [
        ["model", f"structure → {settings['target']} of the mobile ion, lag {settings['lag_ps']:g} ps"],
        ["use", "mdistill screen --temperature 600 800 1000 1200: ranks conductors; not MD"],
        [
            "trained on",
            f"dynamics of students of {settings['teacher']} for {settings['crystals']} crystals, {settings['groups']} groups",
        ],
        ["ions", f"{ions}, at {min(kelvins):g} to {max(kelvins):g} K"],
        ["data", f"{made.get('data', _UNTOLD)}, sha256 {made.get('data_sha256', _UNTOLD)}"],
        ["error, other groups", f"{errors} decades"],
        ["usual distance", f"up to {settings.get('far', math.nan):.2f} to the nearest composition"],
        ["elements", _symbols(header)],
    ]


def _file_rows(path: Path, header: Mapping[str, Any]) -> list[list[Cell]]:
    version = header["provenance"].get("version")
    written, own = f", by mdistill {version}" if version else "", read_header(path, "mdistill")["format"]
    return [
        ["file", f"{path.stat().st_size / 1000:.4g} kB, format {own}{written}"],
        ["sha256", str(header["sha256"])],
    ]


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else _UNTOLD


def _error_tables(errors: Any) -> list[Table]:
    """Root mean square errors on held-out labels: all, by temperature, by element."""
    try:
        groups = list(dict.fromkeys(group for quantity, _, _ in _QUANTITIES for group in errors.get(quantity, {})))
        rows: list[list[Cell]] = [
            [group, *(_scaled(errors.get(quantity, {}).get(group), factor) for quantity, _, factor in _QUANTITIES)]
            for group in groups
        ]
    except (AttributeError, TypeError):
        return []
    columns = ["RMSE of", *(heading for _, heading, _ in _QUANTITIES)]
    return [Table("errors", "Errors on held-out labels", "accuracy", columns, rows)] if rows else []


def _scaled(one: Any, factor: float) -> Cell:
    value = None if one is None else one.get("root_mean_square")
    return f"{factor * value:.3g}" if isinstance(value, (int, float)) and math.isfinite(value) else None


def _run_of(path: Path, sha256: str) -> tuple[Path, Results] | None:
    """The run folder that this file belongs to, with its results."""
    for folder in (path.absolute().parent, path.absolute().parent.parent):
        try:
            results = read_results(folder)
        except BadInput:
            continue
        if results.provenance.get("model_sha256") == sha256 and results.gates:
            return folder, results
    return None


def _cited(*keys: str) -> Table:
    rows: list[list[Cell]] = [[reference(work)] for work in works(["mdistill", *keys]).values()]
    return Table("cite", "Cite", "settings", ["reference"], rows)


def _citations(teacher: str, run: Path | None) -> Table:
    """mdistill, and the teacher's papers; how to list all works of the run."""
    card, known = card_of(teacher), dict[str, dict[str, str]]()
    for key in ("mdistill", *([teacher] if card is None else card.citations)):
        try:
            known |= works([key])
        except BadInput:
            continue
    rows: list[list[Cell]] = [[reference(work)] for work in known.values()]
    rows += [[f"all works of the run: mdistill cite {run}"]] if run else []
    return Table("cite", "Cite", "settings", ["reference"], rows)

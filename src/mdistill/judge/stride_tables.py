"""Tables, gates and values of the stride rung."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mdistill.analysis.gates import Overlap
from mdistill.estimates import Estimate, Gate, exactly, gate, unknown
from mdistill.judge.dynamics import Judged
from mdistill.judge.settings import JudgeSettings
from mdistill.runs.results import Cell, Rung, Table

SECTION = "strides"
_NEAR, _FAR = 2.0, 3.0
_MOMENTUM = 1e-8
REMEDY = "Heavier kicks are more accurate, at about twice the cost: distill … --strides.train.kick-size student --update"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """All measurements of one map.

    Attributes:
        stride_fs, kicks, usual_fs: Stride, force calls in it, the usual time step, fs.
        errors: Relative one-stride errors on held-out segments.
        runs: Runs by kind of step ("small steps", "long strides", "no energy correction", "as many force calls") and ensemble.
        overlaps: RDFs of long strides against time steps, by pair.
        reversal_A: Distance from the start after going there and back.
        per_day: ns/day of the usual Verlet and of the map; speed_up: their ratio.
        fallbacks, strides: Number of strides replaced by time steps, and of all strides.
        name, atoms: Name of the map; number of atoms of the structure.
        light: Whether its kicks are light.
        adjusted: Facts of the kick scale (`judge.kick_scale`).
    """

    stride_fs: float
    kicks: int
    usual_fs: float
    errors: Mapping[str, float]
    runs: Mapping[str, Mapping[str, Judged]]
    overlaps: Mapping[str, Overlap]
    reversal_A: float
    per_day: list[Estimate]
    speed_up: Estimate
    fallbacks: int
    strides: int
    name: str
    atoms: int
    light: bool = False
    adjusted: Mapping[str, float] = field(default_factory=dict)


def deviations(compared: Compared, kind: str, ensemble: str, kelvin: float) -> dict[str, Estimate]:
    """Mean temperature minus its target (K), "all" and by element. Target: the thermostat's temperature, or in NVE that of all
    atoms with time steps, which holds for each element by equipartition."""
    target, differences = target_of(compared.runs, ensemble, kelvin), {}
    for name, value in compared.runs[kind][ensemble].temperatures.items():
        if target is None or target.value is None or value.value is None:
            continue
        differences[name] = value - target
    return differences


def target_of(runs: Mapping[str, Mapping[str, Judged]], ensemble: str, kelvin: float) -> Estimate | None:
    """Target of a mean temperature (K): the thermostat's, or in NVE that of time steps; None where these runs broke."""
    if ensemble != "NVE":
        return Estimate(value=kelvin, error=0.0, unit="K")
    return runs["small steps"]["NVE"].temperatures.get("all")


def gates(compared: Compared, settings: JudgeSettings) -> list[Gate]:
    """Temperatures, structure, momentum."""
    overall: dict[str, Estimate] = {}
    elements: dict[str, Estimate] = {}
    kelvin = settings.temperature_K or 0.0
    broken = [f"{e}: {run.broken}" for e, run in compared.runs["long strides"].items() if run.broken]
    for ensemble in compared.runs["long strides"]:
        for name, value in deviations(compared, "long strides", ensemble, kelvin).items():
            (overall if name == "all" else elements)[ensemble if name == "all" else f"{name}, {ensemble}"] = value
    checks = [
        _temperature_gate("stride: temperature", overall, settings.temperature_limit_K, broken),
        _temperature_gate("stride: temperature of each element", elements, settings.element_limit_K, broken),
    ]
    checks = [
        one if one.passed else replace(one, detail=one.detail + _remedy(one, compared.light, settings.longest_ps))
        for one in checks
    ]
    if compared.overlaps:
        pair, worst = max(compared.overlaps.items(), key=lambda item: item[1].divergence)
        checks.append(
            replace(
                gate(
                    "stride: structure",
                    Estimate(value=worst.divergence, error=worst.noise, unit=""),
                    settings.rdf_divergence,
                    f"{pair}, Jensen–Shannon divergence of the RDF from that with time steps, {kelvin:g} K",
                ),
                passed=worst.divergence <= max(settings.rdf_divergence, worst.noise),
            )
        )
    momentum = max((run.momentum for run in compared.runs["long strides"].values()), default=0.0)
    detail = "largest total momentum in an NVE run that starts with none"
    return [*checks, gate("stride: momentum", exactly(momentum, "u·Å/fs per atom"), _MOMENTUM, detail)]


def _temperature_gate(name: str, differences: Mapping[str, Estimate], limit: float, broken: list[str]) -> Gate:
    if broken or not differences:
        return gate(name, unknown("K"), limit, "; ".join(broken) or "not measured")

    def good(value: Estimate) -> bool:
        size, error = abs(value.value or 0.0), value.error or 0.0
        return error <= limit and size <= max(limit, _NEAR * error)

    where, worst = max(differences.items(), key=lambda item: (not good(item[1]), abs(item[1].value or 0.0)))
    detail = (
        f"{where}: distance of the mean temperature from what it should be (at most the limit, or twice its error, which "
        "itself may not exceed the limit)"
    )
    return replace(gate(name, abs(worst), limit, detail, parts=differences), passed=good(worst))


def _remedy(failed: Gate, light: bool, longest_ps: float) -> str:
    """Advice for a failed gate: longer runs where three errors could explain it (block errors are too small where elements
    exchange energy slowly), else heavier kicks."""
    size, error = failed.measured.value, failed.measured.error or 0.0
    if failed.parts and size is not None and size <= failed.limit + _FAR * error:
        longer = 100 * math.ceil(max(longest_ps, 1.0) / 100 * 2.0 * max(1.0, error / failed.limit) ** 2)
        return f". Its error is too large; run longer: distill … --strides.judge.longest-ps {longer} --update"
    return f". {REMEDY}" if light else ""


def tables(compared: Compared, settings: JudgeSettings) -> list[Table]:
    """Temperatures by ensemble and element; one-stride errors; further measurements."""
    names, kelvin = list(compared.runs["small steps"]["NVE"].temperatures), settings.temperature_K or 0.0
    longest_ps = max(settings.time_ps, settings.longest_ps)
    rows: list[list[Cell]] = []
    for kind, runs in compared.runs.items():
        for ensemble, run in runs.items():
            differences = deviations(compared, kind, ensemble, kelvin)
            rows.append([_label(compared, kind), ensemble, *(differences.get(n) for n in names), run.broken])
    elements = [name.removeprefix("momentum ") for name in compared.errors if name.startswith("momentum ")]
    errors: list[list[Cell]] = [["all", *(100.0 * compared.errors[k] for k in ("position", "momentum"))]]
    errors += [[e, *(100.0 * compared.errors[f"{k} {e}"] for k in ("position", "momentum"))] for e in elements]
    plain = compared.runs.get("no energy correction", compared.runs["long strides"])["NVE"]
    facts: list[list[Cell]] = [
        ["stride (fs), force calls in it", f"{compared.stride_fs:g}, {compared.kicks}"],
        ["speed of time steps (ns/day)", compared.per_day[0]],
        ["speed of strides (ns/day)", compared.per_day[1]],
        ["speed-up", compared.speed_up],
        ["strides replaced by time steps", f"{compared.fallbacks} of {compared.strides}"],
        ["NVE drift, no energy correction (meV/atom/ps)", plain.drift.slope.scaled(1e3, "meV/atom/ps") if plain.drift else None],
        ["reversal error, 50 strides (Å)", compared.reversal_A],
    ]
    if compared.adjusted:
        before = Estimate(value=compared.adjusted["off_K"], error=compared.adjusted["off_error_K"], unit="K")
        facts += [
            ["kick scale minus 1 (%)", 100.0 * (compared.adjusted["factor"] - 1.0)],
            ["NVE temperature error before scaling (K)", before],
        ]
    return [
        Table(
            name="stride-temperatures",
            title="Mean temperature with long strides minus its target (K)",
            section=SECTION,
            columns=["steps", "ensemble", *names, "stopped"],
            rows=rows,
            caption=f"{settings.time_ps:g} ps each at {kelvin:g} K, gated ones up to {longest_ps:g} ps where "
            "their means would be known too badly otherwise, or lie within their error of a limit. Under a thermostat the target "
            "is its temperature, in NVE the mean of all atoms with time steps from the same start.",
        ),
        Table(
            name="stride-errors", title="Error of one stride on held-out segments", section=SECTION,
            columns=["element", "positions (% of free flight)", "momenta (% of thermal)"], rows=errors,
            caption="Root mean square over √(3 k_B T), mass-scaled.",
        ),
        Table(
            name="stride-facts", title="Strides against time steps", section=SECTION, columns=["", "value"], rows=facts,
            caption="Speeds timed in turn in one process.",
        ),
    ]  # fmt: skip


def _label(compared: Compared, kind: str) -> str:
    each = compared.stride_fs / compared.kicks
    return {
        "long strides": f"strides of {compared.stride_fs:g} fs",
        "no energy correction": f"strides of {compared.stride_fs:g} fs, no energy correction",
        "as many force calls": f"plain Verlet, {each:g} fs",
    }.get(kind, "time steps")


def values(compared: Compared) -> dict[str, Estimate]:
    """Speeds and the error of a stride."""
    error = exactly(100.0 * compared.errors["momentum, median"], "%")
    return {
        "stride_speed_up": compared.speed_up, "stride_ns_per_day": compared.per_day[1], "stride_error": error,
        "stride_time": exactly(compared.stride_fs, "fs"), "stride_usual_step": exactly(compared.usual_fs, "fs"),
        "stride_fallbacks": exactly(compared.fallbacks, samples=compared.strides),
    }  # fmt: skip


def rung(compared: Compared, model: str) -> Rung:
    """The stride rung."""
    return Rung(
        kind="stride", name=f"strides of {compared.stride_fs:g} fs", speed_up=compared.speed_up,
        errors={"error of a stride": exactly(100.0 * compared.errors["momentum, median"], "% of velocity")},
        note="Cost of strides per usual time step. Error: median over held-out structures of the momenta after one stride.",
        command="train stride", model=model,
    )  # fmt: skip

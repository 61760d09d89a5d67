"""Tables of a campaign: what is at work, what failed and why, the ranking by conductivity, and CSV."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mdistill.campaign.plan import Campaign, Job, Record
from mdistill.errors import BadInput
from mdistill.estimates import Estimate, exactly, gate
from mdistill.runs.lock import working
from mdistill.runs.results import Cell, Figure, Headline, Results, Series, Table, read_results

_SECTION = "campaign"
_MARKS = {"done": "✓", "failed": "✗", "running": "▸", "stopped": "‖", "waiting": "·"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run with its results, where it has any; `lost`: why those of a run that ended cannot be read."""

    job: Job
    record: Record
    results: Results | None
    lost: BadInput | None = None

    @property
    def failed_gates(self) -> list[str]:
        """Names of the gates that failed; results that cannot be read count as one."""
        if self.results is None:
            return [] if self.lost is None else ["no results"]
        return [one.name for one in self.results.gates if not one.passed]

    def headline(self, quantity: str, kelvin: float | None) -> Estimate | None:
        """A measured value of the top of its page."""
        if self.results is None:
            return None
        for one in self.results.headlines:
            if one.quantity == quantity and one.temperature_K == kelvin and not extrapolated(one):
                return self.results.values.get(one.value)
        return None


def status_table(campaign: Campaign, *, width: int | None = None, most: int | None = None) -> Table:
    """Every run with its state: those at work first, then the failed ones.

    Args:
        campaign: The campaign.
        width: Columns of the terminal; below 60 the table has no minutes.
        most: Largest number of rows.
    """
    order = ("running", "failed", "stopped", "waiting", "done")
    records = {job.name: campaign.record(job.name) for job in campaign.jobs}
    rows: list[list[Cell]] = []
    for name, record in sorted(records.items(), key=lambda one: order.index(one[1].state)):
        rows.append([name, f"{_MARKS[record.state]} {record.state}", _what(campaign, name, record), round(record.minutes, 1)])
    columns = ["run", "state", "what", "minutes"]
    if width is not None and width < 60:
        rows = [[row[0], str(row[1]).partition(" ")[0], row[2]] for row in rows]
        columns = ["run", "", "what"]
    hidden = len(rows) - most if most is not None and len(rows) > most else 0
    return Table(
        "status", counts(records.values()), _SECTION, columns, rows[: len(rows) - hidden], f"{hidden} more" if hidden else ""
    )


def counts(records: Iterable[Record]) -> str:
    """How many runs are in each state, in words."""
    states = [(record.state, record.status) for record in records]
    found, gates = Counter(state for state, _ in states), sum(status == 4 for _, status in states)
    words = [f"{found[name]} {name}" for name in ("running", "done", "failed", "stopped", "waiting") if found[name]]
    total = sum(found.values())
    return f"{total} run{'' if total == 1 else 's'}: " + ", ".join(words) + (f"; gates failed in {gates}" if gates else "")


def _what(campaign: Campaign, name: str, record: Record) -> str:
    """Stage of a run at work; why another one ended."""
    if record.state == "running":
        facts = working(campaign.run(name)) or {}
        stage, bar = str(facts.get("stage", "")), facts.get("bar") or {}
        share = f" {100 * bar['done'] / bar['total']:.0f} %" if bar.get("total") else ""
        return f"{stage.partition(',')[0].removeprefix('stage ')}{share}" or "begins"
    return record.reason.partition("\n")[0]


def campaign_results(campaign: Campaign) -> Results:
    """Failures with reasons, the ranking by conductivity, every run."""
    runs = [_finished(campaign, job) for job in campaign.jobs]
    done = [one for one in runs if one.record.state == "done"]
    passed = [one for one in done if not one.failed_gates]
    tables, figures, notes = list[Table](), list[Figure](), list[str]()
    if failures := _failures(runs):
        tables.append(failures)
    kelvin = ranked_at(done)
    if kelvin is None:
        notes.append("No ranking: no run has a conductivity yet, or none has a mobile ion")
    else:
        ranking, figure = _ranking(done, kelvin)
        tables.append(ranking)
        figures.append(figure)
    tables.append(_every(campaign, runs))
    unfinished = len(runs) - len(done)
    ended = gate(
        "runs that ended", exactly(len(done)), len(runs), f"{unfinished} did not" if unfinished else "", sense="at least"
    )
    good = gate("runs whose gates pass", exactly(len(passed)), len(done), "of those that ended", sense="at least")
    values = {
        "runs": exactly(len(runs)), "runs_done": exactly(len(done)), "runs_gates_passed": exactly(len(passed)),
        "runs_failed": exactly(sum(one.record.state == "failed" for one in runs)),
        "cpu_minutes": exactly(round(sum(one.record.cpu_minutes for one in runs), 2), "min"),
    }  # fmt: skip
    known = dict.fromkeys(name for one in done if one.results is not None for name in one.results.citations)
    return Results(
        command="campaign", values=values, gates=[ended, *([good] if done else [])], tables=tables, figures=figures, notes=notes,
        citations=list(known),
    )  # fmt: skip


def _finished(campaign: Campaign, job: Job) -> Finished:
    record = campaign.record(job.name)
    if record.state not in ("done", "failed"):
        return Finished(job=job, record=record, results=None)
    try:
        return Finished(job=job, record=record, results=read_results(campaign.run(job.name)))
    except BadInput as error:
        return Finished(job=job, record=record, results=None, lost=error if record.state == "done" else None)


def _failures(runs: Sequence[Finished]) -> Table | None:
    rows: list[list[Cell]] = []
    for one in runs:
        record = one.record
        if record.state == "failed":
            problem, *rest = record.reason.splitlines() or [""]
            fix = next((line.strip().removeprefix("fix: ") for line in rest if line.strip().startswith("fix:")), "see its log")
            rows.append([one.job.name, f"exit status {record.status}", problem, fix])
    for one in runs:
        if one.lost is not None:
            fix = f"remove jobs/{one.job.name}.json and run the campaign again: the run resumes"
            rows.append([one.job.name, "no results", f"{one.lost.subject}: {one.lost.problem}", fix])
        if one.results is not None and one.record.state == "done":
            for failed in (g for g in one.results.gates if not g.passed):
                problem = f"{failed.name}: {failed.detail}" if failed.detail else failed.name
                rows.append([one.job.name, "gate failed", problem, failed.fix or "see its report"])
    if not rows:
        return None
    return Table("failures", "Failures", _SECTION, ["run", "what", "reason", "next"], rows)


def ranked_at(runs: Sequence[Finished]) -> float | None:
    """The temperature (K) at which most runs have measured a conductivity; the lowest of several."""
    found = Counter[float]()
    for one in runs:
        measured = [] if one.results is None else [h for h in one.results.headlines if not extrapolated(h)]
        found.update({h.temperature_K for h in measured if h.quantity == "conductivity" and h.temperature_K})
    return min(found, key=lambda kelvin: (-found[kelvin], kelvin)) if found else None


def extrapolated(headline: Headline) -> bool:
    """Whether its temperature is one without dynamics."""
    return headline.value.startswith("extrapolated_")


def _ranking(runs: Sequence[Finished], kelvin: float) -> tuple[Table, Figure]:
    """One row a crystal; the mean of its runs whose gates pass, else of all. Crystals whose gates pass come first."""
    rows: list[tuple[bool, Estimate, list[Cell]]] = []
    for crystal in dict.fromkeys(one.job.crystal for one in runs):
        own = [one for one in runs if one.job.crystal == crystal and one.headline("conductivity", kelvin) is not None]
        trusted = [one for one in own if not one.failed_gates]
        used = trusted or own
        if not used:
            continue
        sigma = mean_of([one.headline("conductivity", kelvin) for one in used])
        energies = [e for one in used if (e := one.headline("activation_energy", None)) is not None]
        energy: Cell = mean_of(energies) if energies else None
        rows.append((bool(trusted), sigma, [crystal, sigma, energy, len(used), "pass" if trusted else "FAILED"]))
    rows.sort(key=lambda row: (not row[0], -_size(row[1])))
    title = f"Ranking by ionic conductivity at {kelvin:g} K"
    caption = (
        "Mean of the runs whose gates pass; error: the larger of the runs' own errors and their scatter. Crystals without such"
        " a run follow, without a rank. The order of two crystals within their errors means nothing."
    )
    ranks = [str(k) if row[0] else "–" for k, row in enumerate(rows, 1)]
    cells: list[list[Cell]] = [[rank, *row[2]] for rank, row in zip(ranks, rows, strict=True)]
    unit = next((row[1].unit for row in rows if row[1].unit), "")
    columns = ["rank", "crystal", f"σ({kelvin:g} K) ({unit})", "activation energy", "runs", "gates"]
    series = []
    for label, wanted in (("gates pass", True), ("a gate failed", False)):
        points = [(float(k), row[1]) for k, row in enumerate(rows, 1) if row[0] == wanted and row[1].value]
        if points:
            series.append(
                Series(
                    label,
                    [x for x, _ in points],
                    [e.value or 0.0 for _, e in points],
                    [e.error or 0.0 for _, e in points],
                    "points",
                )
            )
    limits = [(float(k), row[1].upper_limit) for k, row in enumerate(rows, 1) if row[1].value is None and row[1].upper_limit]
    if limits:
        series.append(Series("95 % upper limit", [x for x, _ in limits], [y for _, y in limits], None, "points", limit=True))
    figure = Figure("ranking", title, _SECTION, "rank", f"σ ({unit})", series, kind="logy", caption="Bars: one standard error.")
    return Table("ranking", title, _SECTION, columns, cells, caption), figure


def _size(sigma: Estimate) -> float:
    return sigma.value if sigma.value is not None else -1.0 / (1.0 + (sigma.upper_limit or 0.0))


def mean_of(estimates: Sequence[Estimate | None]) -> Estimate:
    """Mean of independent estimates; its error is the larger of that from their errors and that from their scatter. Those below
    detection are left out unless all are: then the largest limit is given."""
    known = [e for e in estimates if e is not None]
    given = [e for e in known if e.value is not None]
    if not given:
        limits = [e.upper_limit for e in known if e.upper_limit is not None]
        return Estimate(
            value=None, error=None, unit=known[0].unit, samples=len(known), upper_limit=max(limits) if limits else None
        )
    if len(given) == 1:
        return given[0]
    n, values = len(given), [e.value or 0.0 for e in given]
    mean = sum(values) / n
    own = math.sqrt(sum((e.error or 0.0) ** 2 for e in given)) / n
    scatter = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return Estimate(value=mean, error=max(own, scatter), unit=given[0].unit, samples=n)


def _every(campaign: Campaign, runs: Sequence[Finished]) -> Table:
    rows: list[list[Cell]] = []
    for one in runs:
        speed = one.headline("speed_up", None)
        gates = "–" if one.results is None else (", ".join(one.failed_gates) or "all pass")
        if one.record.state != "done":
            gates = "–"
        rows.append(
            [
                one.job.name,
                one.record.state,
                gates,
                speed,
                round(one.record.minutes, 1),
                round(one.record.cpu_minutes, 1),
                one.record.attempts,
            ]
        )
    columns = ["run", "state", "gates that failed", "speed-up (×)", "minutes", "CPU minutes", "attempts"]
    return Table("runs", "Every run", _SECTION, columns, rows, f"Page of a run: {campaign.folder.name}/runs/NAME/report.html")


def campaign_csv(campaign: Campaign) -> str:
    """A line for each run: state, reason, times, and the values of the top of its page with their errors."""
    runs = [_finished(campaign, job) for job in campaign.jobs]
    names = list(dict.fromkeys(h.value for one in runs if one.results is not None for h in one.results.headlines))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["run", "crystal", "seed", "state", "exit_status", "reason", "gates_failed", "minutes", "cpu_minutes", "attempts"]
    units = {name: next((e.unit for one in runs if one.results and (e := one.results.values.get(name))), "") for name in names}
    titles = [f"{name} ({units[name]})".replace(" ()", "") for name in names]
    writer.writerow([*head, *(title for one in titles for title in (one, f"error of {one}", f"upper limit of {one}"))])
    for one in runs:
        record, values = one.record, one.results.values if one.results is not None else {}
        cells: list[object] = [one.job.name, one.job.crystal, one.job.entries.get("seed", 0), record.state, record.status]
        cells += [" ".join(record.reason.split()), "; ".join(one.failed_gates), round(record.minutes, 3)]
        cells += [round(record.cpu_minutes, 3), record.attempts]
        for name in names:
            e = values.get(name)
            cells += ["", "", ""] if e is None else [e.value, e.error, e.upper_limit]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return text.getvalue()


def exit_status(campaign: Campaign, results: Results) -> int:
    """0: every run ended and its gates pass; 4: a gate failed, or results cannot be read; 1: a run did not end."""
    records = [campaign.record(job.name) for job in campaign.jobs]
    if any(record.state != "done" for record in records):
        return 1
    return 4 if any(record.status == 4 for record in records) or not all(one.passed for one in results.gates) else 0

"""A made-up `Results` with everything a report can hold. Every number is synthetic: drawn from formulas and a fixed seed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from mdistill.estimates import Estimate, Gate
from mdistill.runs.results import Density, Figure, Headline, Hops, Results, Rung, Scene, Series, Table

HOSTILE = "<script>alert('x')</script>_\"onload=\"_Li6PS5Cl_neutron_refinement_with_a_very_long_file_name_copy_(2)_final.cif"
TEMPERATURES = (500, 700, 900)


def estimate(value: float | None, error: float | None, unit: str = "", **rest: object) -> Estimate:
    return Estimate(value=value, error=error, unit=unit, **rest)  # type: ignore[arg-type]


def sample(*, points: int = 1500) -> Results:
    """Synthetic Li6PS5Cl at 500, 700, 900 K: one failed gate, 500 K below detection, a hostile file name."""
    rng = np.random.default_rng(0)
    return Results(
        command="distill",
        settings={
            "formula": "Li6PS5Cl", "structure": HOSTILE, "teacher": "sevennet-0", "temperatures": [500.0, 700.0, 900.0],
            "student": {"cutoff": 5.0, "channels": 12, "radial_functions": 10}, "quick": True, "seed": 1, "resume": None,
        },
        hardware={"processor": "Imaginary 2000 @ 2.0 GHz", "cores": 2, "threads": 1, "memory_GiB": 8.0, "gpu": None},
        provenance={
            "formula": "Li6PS5Cl", "version": "0.1.0", "commit": "0123abc-dirty", "structure_sha256": "c0ffee" * 10 + "c0ff",
            "student_sha256": "5eed" * 16,
            "command_line": f"mdistill distill '{HOSTILE}' --teacher sevennet-0 --temperatures 500 700 900",
        },
        values=_values(),
        headlines=_headlines(),
        gates=_gates(),
        rungs=_rungs(),
        tables=_tables(),
        figures=[*_parity(rng, points), *_dynamics(rng), *_transport(rng), *_training(rng)],
        notes=[
            "All numbers on this page are synthetic: they test the report and describe no material.",
            "Partial occupancy of Li 48h (0.3849 / 0.6151) was ordered: integer counts by largest remainder, 3 orderings kept.",
        ],
        citations=["mdistill", "sevennet-0", "ase", "kinisi", "baoab", "zbl", "a work nobody knows"],
        version="0.1.0",
        created="2000-01-01T00:00:00Z",
    )  # fmt: skip


def rich_sample(*, points: int = 20) -> Results:
    """The sample with all that newer results hold: a way out, doubts, parts of errors, replicas, a structure, paths of Li."""
    results = sample(points=points)
    parts = {
        "conductivity_statistical_700K": estimate(30.1, None, "mS/cm"),
        "conductivity_model_700K": estimate(28.2, None, "mS/cm"),
    }
    gates = [replace(gate, fix="" if gate.passed else f"Shorten the time step <{HOSTILE}>.") for gate in results.gates]
    told = [replace(h, doubts=["Only 18 hops <b>seen</b>."]) if h.temperature_K == 700.0 else h for h in results.headlines]
    table = Table(name="long", title="Long", section="dynamics", columns=["pair", "shift (Å)"],
                  rows=[[f"pair {k}", 1.0 + 1e-3 * k] for k in range(30)])  # fmt: skip
    thin = [Series(label=f"run {k}", subject="700 K", x=[1.0, 2.0], y=[1.0, 2.0 + k], style="thin") for k in range(3)]
    msd = replace(results.figures[-3], series=[*results.figures[-3].series, *thin], folded=True)
    return replace(
        results, values=results.values | parts, gates=gates, headlines=told, tables=[*results.tables, table],
        figures=[*results.figures, replace(msd, name="replicas")], scenes=scenes(),
    )  # fmt: skip


def scenes() -> list[Scene]:
    """Two PS4 molecules that cross faces of an oblique cell, four Cl, four Li; Li is dense at one place and hops from it."""
    cell = np.array([[8.0, 0.0, 0.0], [1.5, 9.0, 0.0], [0.0, 0.5, 10.0]])
    corners = 2.05 / math.sqrt(3.0) * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    middles = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]) @ cell
    sulphur = (middles[:, None] + corners).reshape(-1, 3)
    chlorine = np.array([[0.5, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5], [0.5, 0.5, 0.0]]) @ cell
    lithium = np.array([[0.25, 0.25, 0.25], [0.75, 0.25, 0.25], [0.25, 0.75, 0.25], [0.25, 0.25, 0.75]]) @ cell
    positions = np.concatenate([middles, sulphur, chlorine, lithium]) @ np.linalg.inv(cell) % 1.0 @ cell
    grid = np.zeros((16, 18, 20), dtype=int)
    grid[4, 5, 15], grid[4, 4, 15], grid[3, 5, 15] = 255, 120, 90
    first, second = (np.array([0.28, 0.3, 0.775]) @ cell).tolist(), (np.array([-0.2, 0.3, 0.775]) @ cell).tolist()
    common = {
        "numbers": [15] * 2 + [16] * 8 + [17] * 4 + [3] * 4,
        "positions": positions.tolist(),
        "cell": cell.tolist(),
        "mobile": 3,
    }
    return [
        Scene(name="structure", title=f"Structure {HOSTILE}", section="structure", **common),
        Scene(name="paths", title="Paths of Li", section="transport", caption=f"Of {HOSTILE}.",
              density=Density(shape=(16, 18, 20), values=grid.reshape(-1).tolist(), largest=0.4),
              hops=[Hops(start=tuple(first), end=tuple(second), count=12)], **common),
    ]  # fmt: skip


def _values() -> dict[str, Estimate]:
    return {
        "speed_up": estimate(312.4, 8.7, "×", samples=5),
        "conductivity_500K": estimate(None, None, "mS/cm", upper_limit=1.834, samples=2),
        "conductivity_700K": estimate(152.37, 41.2, "mS/cm", samples=11, interval=(80.1, 241.9)),
        "conductivity_900K": estimate(683.21, 58.4, "mS/cm", samples=34),
        "diffusivity_900K": estimate(3.274e-5, 2.8e-6, "cm²/s", samples=34),
        "activation_energy": estimate(0.2987, 0.0431, "eV", samples=2),
        "force_mae_600K": estimate(28.41, 0.63, "meV/Å", samples=12),
        "teacher_calls": estimate(396, None, "", samples=396),
        "net_force": estimate(0.0, 3.1e-9, "eV/Å"),
    }


def _gates() -> list[Gate]:
    return [
        Gate(
            name="force error, 600 K", measured=estimate(28.41, 0.63, "meV/Å", samples=12), limit=30.0, passed=True,
            detail="Mean absolute error per component on held-out time blocks.",
            parts={"Li": estimate(24.3, 0.5, "meV/Å"), "P": estimate(61.07, 2.2, "meV/Å"), "S": estimate(29.9, 0.7, "meV/Å")},
        ),
        Gate(name="energy error", measured=estimate(0.812, 0.094, "meV/atom"), limit=1.0, passed=True),
        Gate(
            name="NVE drift", measured=estimate(2.413, 0.371, "meV/atom/ps"), limit=0.5, passed=False,
            detail="Slope of the total energy over 20 ps at 900 K; the limit is exceeded almost five-fold.",
        ),
        Gate(name="RDF distance (Jensen–Shannon)", measured=estimate(1.23, 0.11, "%"), limit=2.0, passed=True,
             detail="Largest of six pairs; Wasserstein-1 distance 0.013 Å."),
        Gate(name="shortest stable distance", measured=estimate(0.31, None, "Å"), limit=0.2, passed=True, sense="at least",
             detail="Repulsion rises all the way in for <b>every</b> pair."),
        Gate(name="stability at 1080 K", measured=estimate(20000, None, "steps"), limit=20000.0, passed=True, sense="at least"),
    ]  # fmt: skip


def _rungs() -> list[Rung]:
    errors = {"force MAE": estimate(28.41, 0.63, "meV/Å"), "energy MAE": estimate(0.812, 0.094, "meV/atom")}
    note = "One thread, 208 atoms, both timed in the same run. Errors on held-out time blocks at 600 K."
    return [
        Rung(kind="teacher", name="sevennet-0 (teacher)", cost=estimate(6021.0, 112.0, "µs/atom/step")),
        Rung(
            kind="potential", name="potential (student)", cost=estimate(19.27, 0.41, "µs/atom/step"),
            speed_up=estimate(312.4, 8.7, "×"), errors=errors, note=note,
        ),
    ]  # fmt: skip


def _headlines() -> list[Headline]:
    measured = [*(("conductivity", float(kelvin)) for kelvin in TEMPERATURES), ("diffusivity", 900.0)]
    return [
        Headline(quantity="speed_up", value="speed_up"),
        *(Headline(quantity=what, value=f"{what}_{kelvin:g}K", temperature_K=kelvin) for what, kelvin in measured),
        Headline(quantity="activation_energy", value="activation_energy"),
    ]


def _tables() -> list[Table]:
    structure = Table(
        name="orderings", title="Orderings kept", section="structure", columns=["ordering", "atoms", "Ewald energy (eV/atom)"],
        rows=[["1", 208, -29.3412], ["2", 208, -29.3398], ["3", 12480, -29.331]],
        caption=f"From {HOSTILE}",
    )  # fmt: skip
    elements = {"Li": 24.3, "P": 61.1, "S": 29.9, "Cl": 22.2}
    errors = Table(
        name="errors", title="Errors by temperature and element", section="accuracy",
        columns=["temperature (K)", "frames", "energy MAE (meV/atom)", "force MAE (meV/Å)", *(f"{e} (meV/Å)" for e in elements)],
        rows=[
            [t, 40, estimate(0.5 + t / 3000, 0.07, "meV/atom"),
             *(estimate(f * t / 600, 0.02 * f, "meV/Å") for f in (28.4, *elements.values()))]
            for t in (300, 600, 1000)
        ],
    )  # fmt: skip
    transport = Table(
        name="transport", title="Li diffusivity and conductivity", section="transport",
        columns=["T (K)", "D (cm²/s)", "σ Nernst–Einstein (mS/cm)", "jumps seen"],
        rows=[
            [500, estimate(None, None, "cm²/s", upper_limit=4.9e-8), estimate(None, None, "mS/cm", upper_limit=1.834), 0],
            [700, estimate(5.68e-6, 1.5e-6, "cm²/s"), estimate(152.37, 41.2, "mS/cm", interval=(80.1, 241.9)), 18],
            [900, estimate(3.274e-5, 2.8e-6, "cm²/s"), estimate(683.21, 58.4, "mS/cm"), 137],
        ],
        caption="Errors are one standard error; limits are 95 % upper limits.",
    )  # fmt: skip
    return [structure, errors, transport]


def _parity(rng: np.random.Generator, points: int) -> list[Figure]:
    figures = []
    kinds = (("forces", "eV/Å", 1.2, 0.04), ("energy", "meV/atom", 9.0, 0.9), ("stress", "GPa", 0.8, 0.03))
    for name, unit, width, noise in kinds:
        series = []
        for t in (300, 1000):
            x = rng.normal(0.0, width * math.sqrt(t / 600), points if name == "forces" else 80)
            series.append(Series(label=f"{t} K", x=x.tolist(), y=(x + rng.normal(0.0, noise, len(x))).tolist(), style="points"))
        caption = f"MAE 28.4 meV/Å; {2 * points} components." if name == "forces" else ""
        figures.append(
            Figure(name=f"parity_{name}", title=f"Parity: {name}", section="accuracy", x_label=f"teacher {name} ({unit})",
                   y_label=f"student {name} ({unit})", series=series, kind="parity", caption=caption)
        )  # fmt: skip
    return figures


def _dynamics(rng: np.random.Generator) -> list[Figure]:
    r = np.linspace(1.0, 7.0, 160)
    series = []
    for pair, place, width in (("Li–S", 2.45, 0.16), ("P–S", 2.06, 0.07), ("Li–Cl", 2.65, 0.2)):
        g = 4.0 * np.exp(-((r - place) ** 2) / (2 * width**2)) + 1.0 / (1.0 + np.exp(-(r - place - 0.9) * 4))
        series.append(Series(label=f"teacher {pair}", subject=pair, x=r.tolist(), y=g.tolist(), style="dashed"))
        series.append(
            Series(label=f"student {pair}", subject=pair, x=r.tolist(), y=(g * 1.01).tolist(), error=(0.04 * g + 0.02).tolist())
        )
    t = np.linspace(0.0, 20.0, 8000)
    drift = [Series(label="dt = 1 fs", x=t.tolist(), y=(0.12 * t + rng.normal(0, 0.4, t.size)).tolist())]
    return [
        Figure(name="rdf", title="Radial distribution functions", section="dynamics", x_label="r (Å)", y_label="g(r)",
               series=series, caption="900 K; band: one standard error."),
        Figure(name="drift", title="Energy without thermostat", section="dynamics", x_label="time (ps)",
               y_label="E(t) − E(0) (meV/atom)", series=drift, caption="Slope 2.4 ± 0.4 meV/atom/ps."),
    ]  # fmt: skip


def _transport(rng: np.random.Generator) -> list[Figure]:
    lag = np.geomspace(0.1, 40.0, 40)
    msd = []
    for t, slope in zip(TEMPERATURES, (0.004, 0.34, 1.95), strict=True):
        y = 1.2 * (1 - np.exp(-lag / 0.2)) + slope * lag
        msd.append(Series(label=f"{t} K", x=lag.tolist(), y=y.tolist(), error=(0.03 + 0.05 * slope * lag).tolist()))
    inverse = [1000.0 / 700.0, 1000.0 / 900.0]
    sigma_t = [152.37 * 700, 683.21 * 900]
    arrhenius = [
        Series(label="student", x=inverse, y=sigma_t, error=[41.2 * 700, 58.4 * 900], style="points"),
        Series(label="student, 95 % upper limit", subject="student", x=[2.0], y=[1.834 * 500], style="points", limit=True),
        Series(label="fit, Eₐ = 0.30 ± 0.04 eV", subject="student", x=[1.0, 2.1], y=[1.3e6, 1.9e4]),
    ]
    return [
        Figure(name="msd", title="Mean squared displacement of Li", section="transport", x_label="lag (ps)", y_label="MSD (Å²)",
               series=msd, kind="loglog"),
        Figure(name="arrhenius", title="Arrhenius plot", section="transport", x_label="1000/T (1/K)", y_label="σT (K·mS/cm)",
               series=arrhenius, kind="arrhenius", caption="Triangle: below detection, drawn at the upper limit."),
    ]  # fmt: skip


def _training(rng: np.random.Generator) -> list[Figure]:
    epoch = np.arange(1, 121)
    fall = 30 + 220 * np.exp(-epoch / 18)
    return [
        Figure(name="history", title="Training history", section="training", x_label="epoch", y_label="force MAE (meV/Å)",
               kind="logy", series=[
                   Series(label="training", x=epoch.tolist(), y=(fall * np.exp(rng.normal(0, 0.03, 120))).tolist()),
                   Series(label="held-out blocks", x=epoch.tolist(), y=[*(fall[:-1] * 1.05).tolist(), None]),
               ])
    ]  # fmt: skip

"""Plays the Python module of PLUMED where its library is absent: the commands and units of its manual, five actions.

Actions: UNITS, DISTANCE (nearest image), COMBINE of distances, MOVINGRESTRAINT on one variable (one STEP: a fixed restraint),
PRINT. Anything else is refused. Reference: G. A. Tribello et al., Comput. Phys. Commun. 185, 604 (2014),
doi 10.1016/j.cpc.2013.09.018. No code of PLUMED is used.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

NAMED_UNITS = {"nm": 1.0, "A": 0.1, "ps": 1.0, "fs": 0.001, "kj/mol": 1.0}
"""In nm, ps and kJ/mol, the units of an input without UNITS."""
KINDS = ("Energy", "Length", "Time")
STORED = ("init", "prepareCalc", "setTimestep", "setRestart", "setStep", "setBox", "setPositions", "setForces", "setVirial")
IGNORED = ("setMDChargeUnits", "setMDMassUnits", "setNatoms", "setMDEngine", "setLogFile", "setKbT", "setEnergy", "setMasses")
Terms = list[tuple[float, int, int]]
"""Coefficient and two atoms of each distance in a variable."""


class Plumed:
    """Forces and virial are added to the caller's arrays; the virial is dE/d(strain), as in PLUMED."""

    def __init__(self) -> None:
        self.engine, self.input = dict.fromkeys(KINDS, 1.0), dict.fromkeys(KINDS, 1.0)
        self.given: dict[str, Any] = {}
        self.variables: dict[str, Terms] = {}
        self.bias: tuple[str, str, list[tuple[int, float, float]]]
        self.columns: list[str] = []
        self.file, self.every = Path(), 1
        self.energy = self.work = 0.0
        self.before: tuple[float, float] | None = None

    def cmd(self, name: str, value: Any = None) -> None:
        kind = name.removeprefix("setMD").removesuffix("Units")
        if kind in KINDS:
            assert "init" not in self.given
            self.engine[kind] = value
        elif name == "readInputLine":
            self.read(value)
        elif name == "performCalc":
            self.calculate()
        elif name == "getBias":
            value[0] = self.energy
        elif name in STORED:
            self.given[name] = value
        else:
            assert name in IGNORED, f"{name} is no command of the stand-in"

    def read(self, line: str) -> None:
        label, _, rest = line.rpartition(": ")
        action, *words = rest.split()
        values = dict(word.split("=") for word in words)
        if action == "UNITS":
            for key, text in values.items():
                self.input[key.capitalize()] = NAMED_UNITS[text] if text in NAMED_UNITS else float(text)
        elif action == "DISTANCE":
            first, second = (int(text) - 1 for text in values["ATOMS"].split(","))
            self.variables[label] = [(1.0, first, second)]
        elif action == "COMBINE":
            parts = zip(map(float, values["COEFFICIENTS"].split(",")), values["ARG"].split(","), strict=True)
            self.variables[label] = [(c * part, i, j) for c, name in parts for part, i, j in self.variables[name]]
        elif action == "MOVINGRESTRAINT":
            rows: list[tuple[int, float, float]] = []
            while f"STEP{(k := len(rows))}" in values:
                spring = float(values[f"KAPPA{k}"]) if f"KAPPA{k}" in values else rows[-1][2]
                rows.append((int(values[f"STEP{k}"]), float(values[f"AT{k}"]), spring))
            self.bias = label, values["ARG"], rows
        else:
            assert action == "PRINT", f"{action} is no action of the stand-in"
            self.columns, self.file, self.every = values["ARG"].split(","), Path(values["FILE"]), int(values["STRIDE"])
            if not self.given["setRestart"]:
                self.file.write_text("#! FIELDS time " + " ".join(self.columns) + "\n", encoding="utf-8")

    def vector(self, first: int, second: int) -> np.ndarray:
        """From one atom to the nearest image of the other, in the caller's unit."""
        apart = self.given["setPositions"][second] - self.given["setPositions"][first]
        box = self.given.get("setBox", np.zeros((3, 3)))
        return min((apart + np.array(n) @ box for n in product((-2, -1, 0, 1, 2), repeat=3)), key=np.linalg.norm)

    def calculate(self) -> None:
        label, variable, rows = self.bias
        steps, centres, springs = zip(*rows, strict=True)
        step = self.given["setStep"]
        energy, length, time = (self.engine[kind] / self.input[kind] for kind in KINDS)
        vectors = [(c, i, j, self.vector(i, j)) for c, i, j in self.variables[variable]]
        value = length * sum(c * np.linalg.norm(vector) for c, _, _, vector in vectors)
        centre, spring = np.interp(step, steps, centres), np.interp(step, steps, springs)
        pull = spring * (value - centre)
        self.energy = 0.5 * spring * (value - centre) ** 2 / energy
        if self.before is not None:
            self.work -= 0.5 * (pull + self.before[1]) * (centre - self.before[0])
        self.before = centre, pull
        for c, i, j, vector in vectors:
            force = c * pull * length / energy * vector / np.linalg.norm(vector)
            self.given["setForces"][i] += force
            self.given["setForces"][j] -= force
            self.given["setVirial"] += np.outer(force, vector)
        if self.columns and step % self.every == 0:
            known = {variable: value, f"{label}.work": self.work, f"{label}.bias": self.energy * energy}
            row = [step * self.given["setTimestep"] * time, *(known[name] for name in self.columns)]
            with open(self.file, "a", encoding="utf-8") as lines:
                lines.write(" " + " ".join(f"{x:.6f}" for x in row) + "\n")

    def finalize(self) -> None:
        self.given.clear()

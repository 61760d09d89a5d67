"""The types that data flows through: frozen, slotted, keyword-only dataclasses of tensors.

Units: Å, fs, eV, u, e, K (`units.py`). Cell rows are lattice vectors. Stress has ASE's sign (tension positive).
Nothing here is mutated: `dataclasses.replace` makes changed copies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A batch of structures, concatenated over atoms.

    Attributes:
        positions: [atom, 3] Å, unwrapped (may lie outside the cell).
        numbers: [atom] atomic numbers.
        cell: [struct, 3, 3] Å, rows are lattice vectors; zeros along open directions.
        pbc: [struct, 3] periodic along each lattice vector.
        owner: [atom] the struct each atom belongs to, ascending.
        charge: [struct] total charge, e; None: not stated.
        unpaired: [struct] number of unpaired electrons; −1 or None: not stated.
    """

    positions: Float[Tensor, "atom 3"]
    numbers: Int[Tensor, " atom"]
    cell: Float[Tensor, "struct 3 3"]
    pbc: Bool[Tensor, "struct 3"]
    owner: Int[Tensor, " atom"]
    charge: Int[Tensor, " struct"] | None = None
    unpaired: Int[Tensor, " struct"] | None = None

    @property
    def n_atoms(self) -> int:
        return int(self.positions.shape[0])

    @property
    def n_structs(self) -> int:
        return int(self.cell.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """Directed neighbour pairs: edge vector = r[sender] + shift·cell − r[receiver], |edge vector| < cutoff.

    Both directions of every pair are present; edges are sorted by receiver.
    """

    system: System
    receiver: Int[Tensor, " edge"]
    sender: Int[Tensor, " edge"]
    shift: Float[Tensor, "edge 3"]
    cutoff: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Energy, forces and stress of a batch; a training target has the same type.

    Attributes:
        energy: [struct] eV.
        forces: [atom, 3] eV/Å.
        stress: [struct, 3, 3] eV/Å³, symmetric, tension positive (σ = (1/V) ∂E/∂strain); None where any struct is not
            periodic in three directions or the label is missing.
        atomic: [atom] atomic energies, eV, whose sum is `energy`; None where the potential has none.
    """

    energy: Float[Tensor, " struct"]
    forces: Float[Tensor, "atom 3"]
    stress: Float[Tensor, "struct 3 3"] | None = None
    atomic: Float[Tensor, " atom"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningSums:
    """Sums over the steps of a run of one struct so far (`simulation/running_sums.py`).

    Attributes:
        steps: Number of steps.
        evaluated: Number of steps with potential energy and pressure; long strides know these only where a leap ends.
        potential: Potential energy, eV.
        pressure: eV/Å³; meaningless where a direction is open.
        kinetic: [element] twice the kinetic energy relative to the centre of mass, eV, elements ascending.
    """

    steps: int
    evaluated: int
    potential: float
    pressure: float
    kinetic: Float[Tensor, " element"]


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A phase-space point of a batch. momenta u·Å/fs, masses u, time fs; prediction belongs to system.

    `middle_momenta`: momenta in the middle of the last step, for kinetic quantities (`simulation/kinetics.py`); None where the
    integrator has none. Dynamics continues from `momenta`. `running_sums`: sums over the steps, if recorded.
    `energy_debt`: [struct] energy (eV) that long strides lost and have not restored (`simulation/energy_correction.py`).
    `heat`: [struct] energy (eV) from thermostats since the start; None where it is not recorded.
    """

    system: System
    momenta: Float[Tensor, "atom 3"]
    masses: Float[Tensor, " atom"]
    time: float = 0.0
    prediction: Prediction | None = None
    middle_momenta: Float[Tensor, "atom 3"] | None = None
    running_sums: RunningSums | None = None
    energy_debt: Float[Tensor, " struct"] | None = None
    heat: Float[Tensor, " struct"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One structure through time. positions Å **unwrapped**, momenta u·Å/fs, cell Å, times fs."""

    numbers: Int[Tensor, " atom"]
    positions: Float[Tensor, "frame atom 3"]
    cell: Float[Tensor, "frame 3 3"]
    times: Float[Tensor, " frame"]
    momenta: Float[Tensor, "frame atom 3"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledFrame:
    """One structure with the teacher's answer (System of one struct).

    Attributes:
        system: The structure.
        target: Teacher's energy, forces, stress; NaN in what is `missing`.
        probes: [probe, atom, 3] probe directions v (pure numbers), or None.
        products: [probe, atom, 3] teacher's curvature products H·v, eV/Å², H = ∂²E/∂r∂r (minus the force Jacobian).
        source: Origin of the frame: "md", "strain", "rattle", "relaxed", "displaced", "vacancy", "swap", "lifted",
            "on-policy", "hard".
        temperature_K: Temperature of the MD it came from; 0 where none.
        block: Number of the contiguous time block it belongs to (unique within a label store); held-out sets are
            whole blocks.
        missing: Labels that are not known: "energy", "forces" or both. (An unknown stress is None.)
    """

    system: System
    target: Prediction
    probes: Float[Tensor, "probe atom 3"] | None = None
    products: Float[Tensor, "probe atom 3"] | None = None
    source: str = "md"
    temperature_K: float = 0.0
    block: int = 0
    missing: frozenset[str] = frozenset()


@runtime_checkable
class Potential(Protocol):
    """Anything that maps a graph to energy, forces and stress: student, teacher, DFT code.

    A potential that does its own neighbour search has cutoff 0 and receives a graph without edges. `elements` is
    empty where any element is accepted.
    """

    @property
    def cutoff(self) -> float: ...
    @property
    def elements(self) -> frozenset[int]: ...
    @property
    def name(self) -> str: ...
    def __call__(self, graph: Graph) -> Prediction: ...


@runtime_checkable
class CurvedPotential(Potential, Protocol):
    """A potential that also gives curvature products H·v by automatic differentiation (one struct per graph)."""

    def curvature(self, graph: Graph, probes: Float[Tensor, "probe atom 3"]) -> Float[Tensor, "probe atom 3"]: ...


@runtime_checkable
class Propagator(Protocol):
    """One step of dynamics. `stride_fs` is the time a step advances."""

    @property
    def stride_fs(self) -> float: ...
    def step(self, state: State, generator: Generator) -> State: ...


@runtime_checkable
class LeapingPropagator(Propagator, Protocol):
    """A propagator that takes many steps in one call.

    `leap` takes at most `steps` steps after step number `step`. It returns the state, the number of steps taken, and whether the
    guard should check the state. It watches the guard's limits inside and ends early where one is exceeded.
    """

    def leap(self, state: State, generator: Generator, step: int, steps: int) -> tuple[State, int, bool]: ...

"""PySCF as an engine of hard labels of molecules: Kohn–Sham DFT with a dispersion correction.

Each calculation has two attempts; the second starts from atoms with damping, a level shift, and more steps.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float
from torch import Tensor

from mdistill.errors import BadInput, MissingPackage
from mdistill.io.structures import check_state
from mdistill.labelling.engine import Answer, Failure
from mdistill.labelling.hard_settings import MoleculeDftSettings
from mdistill.processes import time_limit
from mdistill.types import Prediction, System
from mdistill.units import BOHR, HARTREE


@dataclass(frozen=True, slots=True)
class MolecularDft:
    """The engine; structures must be open in all directions."""

    settings: MoleculeDftSettings = field(default_factory=MoleculeDftSettings)
    name: str = "pyscf"
    elements: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        _pyscf()

    @property
    def theory(self) -> str:
        """The level of theory, in words."""
        s = self.settings
        return f"PySCF {s.functional.upper()}{'-' + s.dispersion.upper() if s.dispersion else ''}/{s.basis}"

    def label(
        self, system: System, folder: Path, *, probes: Float[Tensor, "probe atom 3"] | None = None,
        known: Prediction | None = None,
    ) -> Answer | Failure:  # fmt: skip
        """See `Engine.label`. Curvature products are not computed: `probes` must be None."""
        if probes is not None:
            raise BadInput("probes", "asked of pyscf", allowed="none with a hard engine", fix="--probes 0")
        if bool(system.pbc.any()):
            raise BadInput("structure", "is periodic", allowed="a molecule, for pyscf", fix="--hard cp2k for periodic structures")
        s = self.settings
        check_state(system, by="pyscf", fix="--pyscf.charge and --pyscf.spin", charge=s.charge, unpaired=s.spin)
        reasons: list[str] = []
        for safer in (False, True):
            try:
                with time_limit(self.settings.timeout_s):
                    outcome = self._run(system, safer=safer)
            except BadInput:
                raise
            except Exception as error:
                outcome = f"{type(error).__name__}: {error}"
            if isinstance(outcome, Prediction):
                return Answer(prediction=outcome)
            reasons.append(outcome)
        return Failure(reason="; with safer settings: ".join(reasons))

    def _run(self, system: System, *, safer: bool) -> Prediction | str:
        """Energy and forces, or what went wrong."""
        gto, dft, lib = _pyscf()
        lib.num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        atoms = [
            (chemical_symbols[z], row) for z, row in zip(system.numbers.tolist(), system.positions.double().tolist(), strict=True)
        ]
        s = self.settings
        try:
            molecule = gto.M(atom=atoms, basis=s.basis, charge=s.charge, spin=s.spin, unit="Angstrom", verbose=0)
        except RuntimeError as error:
            fix = "--pyscf.charge and --pyscf.spin must suit the number of electrons"
            raise BadInput("structure", f"{error}", allowed="a charge and spin that fit", fix=fix) from error
        field_ = (dft.UKS if s.spin else dft.RKS)(molecule).set(xc=s.functional, conv_tol=s.scf, max_cycle=60)
        field_.grids.level = s.grid
        if s.dispersion:
            field_.disp = s.dispersion
        field_ = field_.density_fit()
        if safer:
            field_ = field_.set(max_cycle=300, level_shift=0.3, damp=0.3)
        field_.kernel()
        if not field_.converged:
            return "the SCF did not converge"
        forces = -np.asarray(_gradient(field_), dtype=np.float64) * (HARTREE / BOHR)
        if not (np.isfinite(field_.e_tot) and np.isfinite(forces).all()):
            return "energy or forces are not finite"
        return Prediction(
            energy=torch.tensor([float(field_.e_tot) * HARTREE], dtype=torch.float64), forces=torch.from_numpy(forces)
        )


def _gradient(field_: Any) -> Any:
    gradients = field_.nuc_grad_method()
    gradients.grid_response = True
    return gradients.kernel()


def _pyscf() -> tuple[Any, Any, Any]:
    try:
        from pyscf import dft, gto, lib
    except ImportError as error:
        raise MissingPackage("pyscf", 'pip install "mdistill[dft]"', "engine pyscf") from error
    return gto, dft, lib

"""GFN-xTB by tblite as a teacher: a semi-empirical method for molecules and bulk structures of the elements H to Rn.

Charge and unpaired electrons are part of its name: "xtb@charge=-1", "xtb@charge=1,unpaired=1". Every structure starts from the
same guess of its density, so an answer does not depend on the structures before. One thread.

Reference: C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019), doi 10.1021/acs.jctc.8b01176.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mdistill.errors import BadInput
from mdistill.io.structures import check_state
from mdistill.teachers.ase import AseTeacher
from mdistill.teachers.cards import Teacher, teacher_options

if TYPE_CHECKING:
    from ase import Atoms

_HEAVIEST = 86


def load_xtb(card: Teacher, name: str, *, timeout_s: float) -> AseTeacher:
    """A GFN-xTB method as a teacher.

    Args:
        card: Its card.
        name: As the user typed it, with charge and unpaired electrons.
        timeout_s: Longest call, s.
    Raises:
        ModuleNotFoundError: tblite is not installed.
        BadInput: An option that it does not have.
    """
    with _one_thread():
        import tblite.interface  # noqa: F401
    options = teacher_options(name)
    told = ",".join(f"{key}={value}" for key, value in options.items() if value)
    calculator = Xtb(method=card.model, charge=options["charge"], unpaired=options["unpaired"])
    elements = frozenset(range(1, _HEAVIEST + 1))
    return AseTeacher(
        calculator=calculator, name=card.name + (f"@{told}" if told else ""), elements=elements, timeout_s=timeout_s
    )


@dataclass(slots=True)
class Xtb:
    """An ASE calculator: `get_property` alone.

    Attributes:
        method: "GFN2-xTB" or "GFN1-xTB".
        charge: Charge of the structure, e.
        unpaired: Number of unpaired electrons.
    """

    method: str
    charge: int = 0
    unpaired: int = 0
    implemented_properties = ("energy", "forces", "stress")
    _last: tuple[Atoms, Any] | None = field(default=None, repr=False)

    def get_property(self, name: str, atoms: Atoms) -> Any:
        """Energy (eV), forces (eV/Å) or stress (eV/Å³).

        Raises:
            BadInput: A structure periodic along one or two directions, a charged bulk, or a structure that states another charge.
        """
        fix = "name both: --teacher xtb@charge=1,unpaired=1"
        check_state(atoms, by=self.method, fix=fix, charge=self.charge, unpaired=self.unpaired)
        if atoms.pbc.any() and (not atoms.pbc.all() or self.charge):
            problem = f"periodic along {atoms.pbc.tolist()}" + (f", charge {self.charge:+d}" if self.charge else "")
            allowed = "molecules, and neutral structures periodic in three directions"
            raise BadInput(f"teacher {self.method}", problem, allowed=allowed, fix="choose another teacher for slabs and wires")
        if self._last is None or self._last[0] != atoms:
            from tblite.ase import TBLite

            made = TBLite(method=self.method, charge=self.charge, multiplicity=self.unpaired + 1, verbosity=0)
            self._last = (atoms.copy(), made)
        return self._last[1].get_property(name, atoms)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Load tblite with one OpenMP thread, whatever the environment says: threads do not pay for small structures."""
    before = os.environ.get("OMP_NUM_THREADS")
    if "tblite.interface" not in sys.modules:
        os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before

"""mdistill train transport: the predictor of conductivities at 300 K from a table of measured ones."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from mdistill.commands.arguments import finish, output_folder, parse, stamped, write_config
from mdistill.transport.settings import TransportSettings


@dataclass(frozen=True, kw_only=True)
class TrainTransportArguments:
    """Measured conductivities."""

    data: Path | None = None
    """Folder of OBELiX (all.csv, test.csv), or the folder that holds `obelix/` (default: $MDISTILL_DATA)."""
    out: Path
    """Folder for transport.mdistill and results.json."""
    settings: Annotated[TransportSettings, tyro.conf.arg(name="")] = field(default_factory=TransportSettings)


HELP = """\
Fit the predictor that `mdistill screen` uses: extremely randomised trees on composition, density, lattice and space group of
every measured conductivity of OBELiX (599 Li conductors), and trees on composition alone. Whole groups of
equal composition or paper are held out to set the intervals. Takes half a minute. The model of the package was made like this.

examples:
  mdistill train transport --data obelix --out runs/transport
  mdistill screen candidates/ --model runs/transport/transport.mdistill
"""
GROUPS = {"what": ("data",), "fit": ("trees", "folds", "share"), "run": ("out", "seed")}


def main(arguments: list[str]) -> int:
    """Train; prints the errors of grouped cross-validation."""
    program = "mdistill train transport"
    given = parse(TrainTransportArguments, arguments, program=program, description=HELP, groups=GROUPS)
    from mdistill.transport.fit import train_transport
    from mdistill.transport.model import save_transport
    from mdistill.transport.obelix import provenance_of, read_obelix
    from mdistill.transport.tables import fit_results

    entries = read_obelix(given.data)
    folder, command = output_folder(given.out), f"{program} {shlex.join(arguments)}"
    model = train_transport(entries, given.settings)
    results = stamped(fit_results(model, entries), given.settings, repeat=command)
    made = provenance_of(entries, given.data) | {"version": results.version, "settings": results.settings}
    digest = save_transport(folder / "transport.mdistill", model, made)
    write_config(folder, program, given)
    results.provenance["model_sha256"] = digest
    finish(results, folder)
    print(f"model: {folder / 'transport.mdistill'}")
    return 0

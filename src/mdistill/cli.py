"""The command line: dispatch to one sub-command per stage. Help is shown without importing torch.

Exit statuses: 0 ok, 1 error, 2 bad input, 3 blow-up, 4 gate failed, 130 interrupted (143 after SIGTERM).
"""

from __future__ import annotations

import difflib
import io
import os
import sys
import traceback
from importlib import import_module
from types import ModuleType

from mdistill import __version__
from mdistill.errors import MdistillError
from mdistill.notices import listening
from mdistill.training.ranks import joined, refuse_torchrun

COMMANDS = {
    "distill": "structure → fast student, gates, production MD, σ, report page",
    "campaign": "distill on many crystals, seeds, temperatures; ranking",
    "label": "teacher MD and its labels",
    "select-frames": "few structures that cover many, for expensive labels",
    "harden": "hard labels (DFT) for the students of a run",
    "molecules": "labelled structures of organic molecules, by GFN2-xTB",
    "train": "potential (student), direct (forces), stride (map), transport",
    "test": "errors of a model on labelled structures, by element and group",
    "bench": "accuracy against speed of students of several sizes",
    "vibrations": "Hessian, phonons and minimum of a student and its teacher",
    "simulate": "MD in NVE, NVT or NpT with any teacher or student",
    "models": "ready students with their cards, nothing to distil",
    "screen": "conductivity at 300 K of many structures, from measured ones",
    "analyse": "RDF, MSD, diffusivity and conductivity of any trajectory", "report": "one HTML page from a run's results.json",
    "export": "a student for LAMMPS, i-PI or metatomic",
    "convert": "trajectories: HDF5, extxyz, LAMMPS, AMBER NetCDF, XDATCAR",
    "info": "content of a model, a structure or a run folder", "doctor": "versions, hardware, teachers, missing packages",
    "download": "weights of a teacher by name, checked by sha256",
    "cite": "references of a run", "completion": "completion of commands and flags in bash, zsh or fish",
}  # fmt: skip

_FROM_THE_START = ("models", "analyse", "select-frames", "report", "export", "convert", "info", "doctor", "cite",
    "completion",
)  # fmt: skip
"""Commands that keep nothing of a run that was interrupted."""

EXAMPLES = """\
examples:
  mdistill doctor
  mdistill distill crystal.cif --quick --dry-run
  mdistill distill crystal.cif --temperatures 500 700 900 --out runs/mine
  mdistill simulate crystal.cif --potential runs/mine --out runs/md
  mdistill analyse runs/md --species Li --temperature-K 700 --out runs/analysis"""


def module_of(name: str) -> ModuleType:
    """The module of a command."""
    return import_module(f"mdistill.commands.{name.replace('-', '_')}")


def overview() -> str:
    """The text of `mdistill --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"mdistill {__version__}: distil molecular dynamics into fast models", "",
            "usage: mdistill COMMAND ... [--help]", "       mdistill --install-completion", "", "commands:", *lines, "", EXAMPLES,
            "", "status: 0 ok, 1 error, 2 bad input, 3 blow-up, 4 gate failed, 130 interrupted",
        ]
    )  # fmt: skip


def run(arguments: list[str]) -> int:
    """Run one command line and give its exit status; errors are printed to standard error."""
    if not arguments or arguments[0] in ("-h", "--help", "--help-all", "help"):
        print(overview())
        return 0
    if arguments[0] in ("-V", "--version"):
        print(__version__)
        return 0
    name, *rest = ["completion", "--install", *arguments[1:]] if arguments[0] == "--install-completion" else arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean: mdistill {close[0]}" if close else "see mdistill --help"
        print(f"mdistill: unknown command {name!r}\n  allowed: {', '.join(COMMANDS)}\n  fix: {hint}", file=sys.stderr)
        return 2
    try:
        if name != "train":
            refuse_torchrun(name)
            with listening():
                return int(module_of(name).main(rest) or 0)
        with listening(), joined():
            return int(module_of(name).main(rest) or 0)
    except MdistillError as error:
        print(f"mdistill {name}{_rank()}: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        anew = name in _FROM_THE_START or (name == "screen" and "--out" not in rest)
        again = "starts from the beginning" if anew else "resumes"
        print(f"mdistill {name}: interrupted; run the same command again: it {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if os.environ.get("MDISTILL_DEBUG"):
            traceback.print_exc()
        print(
            f"mdistill {name}{_rank()}: unexpected {type(error).__name__}: {error}\n"
            "  fix: MDISTILL_DEBUG=1 shows where; please report it",
            file=sys.stderr,
        )
        return 1


def _rank() -> str:
    """Which of several processes speaks, unless it is the first."""
    rank = os.environ.get("RANK", "0")
    return f", rank {rank}" if rank != "0" and os.environ.get("WORLD_SIZE", "1") != "1" else ""


def main() -> None:
    """Entry point of the `mdistill` script. What a console cannot show (not UTF-8) is replaced."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

"""mdistill completion: shell completion of commands and flags."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Literal, get_args

import tyro

from mdistill.errors import BadInput
from mdistill.flags.arguments import flags_of, parse

Shell = Literal["bash", "zsh", "fish"]
_FOLDERS = (("XDG_DATA_HOME", ".local/share"), ("XDG_CONFIG_HOME", ".config"))


@dataclass(frozen=True, kw_only=True)
class CompletionArguments:
    """For which shell."""

    shell: Annotated[Shell | None, tyro.conf.Positional] = None
    """Shell: bash, zsh or fish (default: that of $SHELL)."""
    install: bool = False
    """Write the script where the shell reads it, in place of printing it."""


HELP = """\
Print a script that completes the commands and flags of mdistill, or install it for new shells: for bash and fish in their
folders of completions, for zsh with one line in ~/.zshrc. `mdistill --install-completion` does the same.

examples:
  mdistill completion --install
  mdistill completion bash
  mdistill completion fish
"""
GROUPS = {"what": ("install",)}
OTHER_MODULES = {"label_files", "train_direct", "train_stride", "train_transport"}
"""Files of this room that are no commands."""
_BASH = """\
_mdistill() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}"
  [ "$command" = train ] && [ "$COMP_CWORD" -gt 2 ] && command="train_${{COMP_WORDS[2]}}"
  case "$COMP_CWORD,$word,$command" in
    1,*) COMPREPLY=($(compgen -W "{commands}" -- "$word")) ;;
    2,*,train) COMPREPLY=($(compgen -W "direct potential stride transport" -- "$word")) ;;
{cases}
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _mdistill mdistill
"""


def main(arguments: list[str]) -> int:
    """Print the script."""
    given = parse(CompletionArguments, arguments, program="mdistill completion", description=HELP, groups=GROUPS)
    shell = given.shell or _shell_in_use()
    if given.install:
        print(f"completion for {shell}: {install(shell)}\nIt works in new shells.")
    else:
        print(script(shell), end="")
    return 0


def _shell_in_use() -> str:
    """The shell of the user.

    Raises:
        BadInput: It is none of the three.
    """
    name = Path(os.environ.get("SHELL", "")).name
    if name not in get_args(Shell):
        problem = f"SHELL is {name!r}" if name else "SHELL is not set"
        raise BadInput("completion", problem, allowed=", ".join(get_args(Shell)), fix="mdistill completion bash --install")
    return name


def install(shell: str, home: Path | None = None) -> Path:
    """Write the script where new shells find it; returns its path. A second call replaces it."""
    from mdistill.io.files import write_text

    home = home or Path.home()
    data, config = (Path(os.environ.get(name) or home / usual) for name, usual in _FOLDERS)
    places = {
        "bash": data / "bash-completion" / "completions" / "mdistill", "zsh": data / "mdistill" / "completion.zsh",
        "fish": config / "fish" / "completions" / "mdistill.fish",
    }  # fmt: skip
    place = places[shell]
    place.parent.mkdir(parents=True, exist_ok=True)
    write_text(place, script(shell))
    if shell == "zsh":
        line = f"source {shlex.quote(str(place))}  # completion of mdistill\n"
        start = Path(os.environ.get("ZDOTDIR") or home) / ".zshrc"
        before = start.read_text(encoding="utf-8") if start.exists() else ""
        if line not in before:
            with open(start, "a", encoding="utf-8") as handle:
                handle.write(line if not before or before.endswith("\n") else f"\n{line}")
    return place


def script(shell: str) -> str:
    """The completion script of a shell."""
    files = {module.name for module in iter_modules([str(Path(__file__).parent)])} - OTHER_MODULES
    commands = sorted(name.replace("_", "-") for name in files)
    trained = {"train_direct", "train_potential", "train_stride", "train_transport"}
    known = {name.replace("_", "-"): _flags(name) for name in files - {"train"}} | {name: _flags(name) for name in trained}
    flags = dict(sorted(known.items()))
    if shell == "fish":
        first = f'complete -c mdistill -n __fish_use_subcommand -f -a "{" ".join(commands)}"\n'
        seen = "complete -c mdistill -n '__fish_seen_subcommand_from {}' -l {}\n"
        return first + "".join(seen.format(name.split("_")[-1], flag[2:]) for name, known in flags.items() for flag in known)
    cases = "\n".join(
        f'    *,-*,{name}) COMPREPLY=($(compgen -W "{" ".join(known)}" -- "$word")) ;;' for name, known in sorted(flags.items())
    )
    bash = _BASH.format(commands=" ".join(commands), cases=cases)
    return f"autoload -Uz compinit bashcompinit && compinit && bashcompinit\n{bash}" if shell == "zsh" else bash


def _flags(name: str) -> list[str]:
    module = import_module(f"mdistill.commands.{'train' if name == 'train_potential' else name}")
    kind = next(one for key, one in vars(module).items() if key.endswith("Arguments") and one.__module__ == module.__name__)
    return sorted({"--help", "--help-all", "--config", *flags_of(kind)})

"""mdistill completion: shell completion of commands and flags."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Literal

import tyro

from mdistill.commands.arguments import flags_of, parse


@dataclass(frozen=True, kw_only=True)
class CompletionArguments:
    """For which shell."""

    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]
    """Shell: bash, zsh or fish."""


HELP = """\
Print a script that completes the commands and flags of mdistill.

examples:
  mdistill completion bash
  mdistill completion fish

Install it with one of these lines:
  bash: mdistill completion bash > ~/.local/share/bash-completion/completions/mdistill
  zsh:  mdistill completion zsh >> ~/.zshrc
  fish: mdistill completion fish > ~/.config/fish/completions/mdistill.fish
"""
_BASH = """\
_mdistill() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}"
  [ "$command" = train ] && [ "$COMP_CWORD" -gt 2 ] && command="train_${{COMP_WORDS[2]}}"
  case "$COMP_CWORD,$word,$command" in
    1,*) COMPREPLY=($(compgen -W "{commands}" -- "$word")) ;;
    2,*,train) COMPREPLY=($(compgen -W "potential stride" -- "$word")) ;;
{cases}
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _mdistill mdistill
"""


def main(arguments: list[str]) -> int:
    """Print the script."""
    given = parse(CompletionArguments, arguments, program="mdistill completion", description=HELP, groups={})
    print(script(given.shell), end="")
    return 0


def script(shell: str) -> str:
    """The completion script of a shell."""
    files = {module.name for module in iter_modules([str(Path(__file__).parent)])} - {"arguments"}
    commands = sorted(files - {"train_stride"})
    flags = {name: _flags(name) for name in sorted({*files, "train_potential"} - {"train"})}
    if shell == "fish":
        first = f'complete -c mdistill -n __fish_use_subcommand -f -a "{" ".join(commands)}"\n'
        seen = "complete -c mdistill -n '__fish_seen_subcommand_from {}' -l {}\n"
        return first + "".join(seen.format(name.split("_")[-1], flag[2:]) for name, known in flags.items() for flag in known)
    cases = "\n".join(
        f'    *,-*,{name}) COMPREPLY=($(compgen -W "{" ".join(known)}" -- "$word")) ;;' for name, known in sorted(flags.items())
    )
    bash = _BASH.format(commands=" ".join(commands), cases=cases)
    return f"autoload -U +X bashcompinit && bashcompinit\n{bash}" if shell == "zsh" else bash


def _flags(name: str) -> list[str]:
    module = import_module(f"mdistill.commands.{'train' if name == 'train_potential' else name}")
    kind = next(one for key, one in vars(module).items() if key.endswith("Arguments") and one.__module__ == module.__name__)
    return sorted({"--help", "--help-all", "--config", *flags_of(kind)})

"""Settings of the site. `make docs` builds it from these sources; warnings are errors, and nothing is fetched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mdistill import __version__
from mdistill.cli import COMMANDS

HOME = Path(__file__).parent.parent
project, author, copyright = "mdistill", "mdistill developers", "mdistill developers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib.bibtex"]
exclude_patterns = ["_build", "pictures"]
html_theme = "furo"
html_title = f"mdistill {version}"
html_copy_source = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = [str(HOME / "src" / "mdistill" / "report" / "references.bib")]
bibtex_default_style = "unsrt"
autodoc_mock_imports = ["sevenn", "chgnet", "phonopy"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_use_ivar = True
SUBCOMMANDS = {"train": ["train potential", "train stride", "train transport"]}


class CommandHelp(SphinxDirective):
    """A section for each command with the text that its --help-all (else --help) prints at build time."""

    def run(self) -> list[nodes.Node]:
        return [self.section(words) for name in COMMANDS for words in SUBCOMMANDS.get(name, [name])]

    def section(self, words: str) -> nodes.section:
        section = nodes.section(ids=[words.replace(" ", "-")])
        section += nodes.title(text=f"mdistill {words}")
        section += nodes.literal_block(text=command_help(words), language="text")
        return section


def command_help(words: str) -> str:
    """What the command prints, 100 columns wide, without colours."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    for flag in ("--help-all", "--help"):
        command = [sys.executable, "-m", "mdistill.cli", *words.split(), flag]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode == 0:
            return done.stdout
    raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")


def setup(app: Sphinx) -> None:
    app.add_directive("command-help", CommandHelp)

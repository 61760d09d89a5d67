"""Settings of the site. `make docs` builds it from these sources; warnings are errors, and nothing is fetched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mdistill import __version__
from mdistill.cli import COMMANDS
from mdistill.commands.models import card_tables, report_page
from mdistill.library import cards

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
REPORTS = "ready"
"""Folder of the site with the report pages of ready students."""
MEASURED = ("force error", "speed-up")
"""Gates in the table of ready students."""
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


class ReadyStudents(SphinxDirective):
    """A table of the package's students, then a section for each with its card, both read at build time."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(cards.SHIPPED))
        for path in cards.SHIPPED.glob("*.json"):
            self.env.note_dependency(str(path))
        ready = cards.shipped()
        columns = ["student", "material", "teacher", "judged at (K)", "gates passed", *MEASURED]
        return [table(columns, [self.row(card) for card in ready]), *map(self.section, ready)]

    def row(self, card: cards.Card) -> list[str]:
        judged = {gate.name: gate.measured for gate in card.gates}
        kelvins = f"{card.temperatures_K[0]:g} to {card.temperatures_K[-1]:g}"
        passed = f"{len(card.gates) - len(card.failed)} of {len(card.gates)}"
        return [card.name, card.formula, card.teacher, kelvins, passed, *(judged.get(name, "not judged") for name in MEASURED)]

    def section(self, card: cards.Card) -> nodes.section:
        section = nodes.section(ids=[nodes.make_id(card.name)], names=[card.name])
        section += nodes.title(text=card.name)
        start = f"start/{card.name}{cards.STRUCTURE} --potential {card.name} --temperature-K {card.temperatures_K[-1]:g}"
        words = f"mdistill models {card.name} --out start\nmdistill simulate {start} --out runs/md"
        section += nodes.literal_block(text=words, language="sh")
        if card.results_sha256:
            section += nodes.paragraph("", "", nodes.reference(text="Report of its run", refuri=f"{REPORTS}/{card.name}.html"))
        section += [table(list(one.columns), [list(map(str, row)) for row in one.rows]) for one in card_tables(card)]
        return section


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> nodes.table:
    """A table of plain text; commands in the type of code, whose dashes stay as they are."""

    def entry(text: str) -> nodes.entry:
        return nodes.entry("", nodes.paragraph("", "", (nodes.literal if " --" in text else nodes.inline)(text=text)))

    lines = [nodes.row("", *map(entry, line)) for line in (columns, *rows)]
    widths = [nodes.colspec(colwidth=1) for _ in columns]
    group = nodes.tgroup("", *widths, nodes.thead("", lines[0]), nodes.tbody("", *lines[1:]), cols=len(columns))
    return nodes.table("", group, classes=["colwidths-auto"])


def command_help(words: str) -> str:
    """What the command prints, 100 columns wide, without colours."""
    environment = os.environ | {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    for flag in ("--help-all", "--help"):
        command = [sys.executable, "-m", "mdistill.cli", *words.split(), flag]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode == 0:
            return done.stdout
    raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")


def write_reports(app: Sphinx, error: Exception | None) -> None:
    """The report page of every ready student whose results are known, beside the gallery."""
    if error is None and app.builder.format == "html":
        folder = Path(app.outdir) / REPORTS
        folder.mkdir(exist_ok=True)
        for card in cards.shipped():
            if page := report_page(card):
                (folder / f"{card.name}.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> None:
    app.connect("build-finished", write_reports)
    app.add_directive("command-help", CommandHelp)
    app.add_directive("ready-students", ReadyStudents)

"""mdistill models: ready students, their cards, and the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mdistill.errors import BadInput
from mdistill.flags.arguments import output_folder, parse

if TYPE_CHECKING:
    from mdistill.library.cards import Card
    from mdistill.runs.results import Table


@dataclass(frozen=True, kw_only=True)
class ModelsArguments:
    """What to show."""

    model: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Name of a ready student; `add RUN` makes one of a run; none: all of them."""
    out: Path | None = None
    """Folder to copy the student, its structure and the report page of its run into."""
    name: str = ""
    """Name of what `add` makes (default: formula-teacher)."""
    licence: str = ""
    """Licence of what `add` makes, for its card."""


HELP = """\
Ready students: nothing has to be distilled. Each comes with a relaxed structure and a card: teacher, labels, temperatures,
every gate with its limit, licence, references; some with the report page of their run. Any command that takes a student takes
its name. A student knows only the material and temperatures of its card. `add` keeps student, structure, card and results of a
run of your own, without paths.

examples:
  mdistill models
  mdistill models li6ps5cl-sevennet-0
  mdistill models li6ps5cl-sevennet-0 --out start
  mdistill simulate start/li6ps5cl-sevennet-0.extxyz --potential li6ps5cl-sevennet-0 --temperature-K 700 --out runs/md
  mdistill models add runs/mine --name li6ps5cl-mine
"""
GROUPS = {"what": ("out", "name", "licence")}


def main(arguments: list[str]) -> int:
    """List the ready students, or show, copy or add one."""
    given = parse(ModelsArguments, arguments, program="mdistill models", description=HELP, groups=GROUPS)
    from mdistill.io.files import write_text
    from mdistill.library import cards
    from mdistill.notices import notify
    from mdistill.report.terminal import print_table

    if given.model[:1] == ("add",):
        if len(given.model) != 2:
            raise BadInput(
                "models add", " ".join(given.model[1:]) or "no run", allowed="one run folder", fix="mdistill models add runs/mine"
            )
        from mdistill.teachers.cards import TEACHERS

        taken = {"transport", *TEACHERS}
        card = cards.add(Path(given.model[1]), given.name, cards.own_folder(), licence=given.licence, taken=taken)
        if card.failed:
            notify(f"{card.name}: gates that failed are on its card: {', '.join(card.failed)}")
        print(f"added: {cards.own_folder() / card.name}{cards.STUDENT}\nuse:   --potential {card.name}")
        return 0
    if len(given.model) > 1:
        raise BadInput("models", " ".join(given.model), allowed="one name, or add RUN", fix=f"mdistill models {given.model[0]}")
    if not given.model:
        print_table(_list())
        print(f"your own lie in {cards.own_folder()}: mdistill models add RUN")
        return 0
    card = cards.read_card(given.model[0])
    show(card)
    if given.out is not None:
        page = report_page(card)
        for path in cards.copy_files(card, output_folder(given.out)):
            print(f"copied: {path}")
        if page:
            write_text(given.out / f"{card.name}.html", page)
            print(f"report: {given.out / card.name}.html")
    return 0


def _list() -> Table:
    from mdistill.library import cards
    from mdistill.runs.results import Cell, Table

    rows: list[list[Cell]] = []
    for name in cards.names():
        card = cards.read_card(name)
        verdict = "all pass" if not card.failed else f"{len(card.failed)} of {len(card.gates)} FAILED"
        rows.append([name, card.teacher, _range(card.temperatures_K), verdict])
    return Table("models", "Ready students", "settings", ["name", "teacher", "K", "gates"], rows)


def _range(kelvins: tuple[float, ...]) -> str:
    return f"{kelvins[0]:g} to {kelvins[-1]:g}"


def show(card: Card) -> None:
    """Print the card: what it is, then its gates, failed ones last."""
    from mdistill.report.citations import cite
    from mdistill.report.terminal import print_table

    for table in card_tables(card):
        print_table(table)
    print(f"cite:\n{cite(card.citations)}")


def report_page(card: Card) -> str:
    """The report page of the run that made a ready student; "" where its results are not known."""
    from mdistill.library.cards import results_of
    from mdistill.report.page import render

    results = results_of(card)
    return "" if results is None else render(results)


def card_tables(card: Card) -> list[Table]:
    """What a ready student is, and its gates, failed ones last."""
    from mdistill.library.cards import FAILED
    from mdistill.runs.results import Cell, Table

    rows: list[list[Cell]] = [
        ["material", card.formula], ["elements", ", ".join(card.elements)], ["teacher", card.teacher],
        ["gates judged at (K)", _range(card.temperatures_K)], ["labels at (K)", _range(card.taught_K)], ["labels", card.labels],
        ["made by", card.command], ["with", f"mdistill {card.version}, {card.created[:10]}, {card.processor}"],
        ["licence", card.licence or "not stated"], ["sha256", card.student_sha256],
    ]  # fmt: skip
    judged: list[list[Cell]] = [[one.name, one.measured, one.limit, one.verdict] for one in card.gates]
    judged.sort(key=lambda row: row[-1] == FAILED)
    return [
        Table("card", f"Student {card.name}", "settings", ["what", "value"], rows),
        Table("gates", "Gates", "gates", ["gate", "measured", "limit", "verdict"], judged),
    ]

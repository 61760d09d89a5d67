"""The documentation: tutorials run as printed, links lead somewhere, the site builds without warnings."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from html import unescape
from importlib import import_module
from pathlib import Path

import pytest

from mdistill import cli
from mdistill.library.cards import shipped

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TUTORIALS = {path.stem: path for path in sorted((DOCS / "tutorials").glob("*.md"))}
SLOW = {"first_student", "labels", "model_card", "small_things", "student_knows", "trajectories", "teachers"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TUTORIALS])
def test_tutorial(name, tmp_path, monkeypatch, capsys, trust):
    """Python blocks share one namespace, commands run in one folder, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = BLOCK.findall(TUTORIALS[name].read_text(encoding="utf-8"))
    assert len(blocks) >= 2
    for language, text in blocks:
        if language == "python":
            exec(compile(text, str(TUTORIALS[name]), "exec"), names)  # noqa: S102
            continue
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line)
            assert words[0] == "mdistill"
            assert cli.run(words[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
    trust("T44", f"tutorial {name}: blocks that work verbatim", len(blocks), "all")


def test_links_of_markdown_files_lead_to_files():
    broken = []
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        if "_build" in page.parts:
            continue
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text):
            if not target.startswith(("http", "mailto")) and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_the_table_of_ready_students_is_that_of_their_cards():
    told = {}
    for line in (DOCS / "howto" / "models.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            name, _, kelvins, error, speed = (part.strip() for part in line.strip("|").split("|"))
            told[name.strip("`")] = (kelvins, error, speed)
    cards = {}
    for card in shipped():
        judged = {gate.name: gate.measured for gate in card.gates}
        kelvins = f"{card.temperatures_K[0]:g} to {card.temperatures_K[-1]:g}"
        cards[card.name] = (kelvins, judged["force error"].removesuffix(" meV/Å"), judged["speed-up"].removesuffix(" ×"))
    assert told == cards


def test_lengths_that_a_reader_is_promised():
    def lines(name: str) -> list[str]:
        return (ROOT / name).read_text(encoding="utf-8").splitlines()

    assert len(lines("README.md")) <= 150
    assert len(lines("CHANGELOG.md")) <= 20
    assert len(lines("docs/architecture.md")) <= 100 and max(map(len, lines("docs/architecture.md"))) <= 110
    for page in (DOCS / "developer").glob("add_*.md"):
        assert len(page.read_text(encoding="utf-8").splitlines()) <= 40, page.name


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("sphinx")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(DOCS), str(tmp_path / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html" / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(f"mdistill {name}" in page for name in cli.COMMANDS)
    gallery = unescape((tmp_path / "html" / "gallery.html").read_text(encoding="utf-8"))
    ready = sorted((ROOT / "src" / "mdistill" / "library").glob("*.json"))
    assert len(ready) >= 2
    for path in ready:
        card = json.loads(path.read_text(encoding="utf-8"))
        section = gallery.partition(f'<section id="{path.stem.replace(".", "-")}">')[2].partition("</section>")[0]
        assert f"start/{path.stem}.extxyz --potential {path.stem}" in re.sub(r"<[^>]+>", "", section), path.stem
        page = tmp_path / "html" / "ready" / f"{path.stem}.html"
        assert page.exists() == bool(card.get("results_sha256")) == (f'href="ready/{page.name}"' in section)
        cells = [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<p>(.*?)</p>", section, re.DOTALL)]
        told = [card["teacher"], card["licence"], card["command"], card["student_sha256"]]
        gates = [gate[key] for gate in card["gates"] for key in ("name", "measured", "limit", "verdict")]
        missing = [one for one in (*told, *gates) if one not in cells]
        assert not missing and cells.count("passed") == [gate["verdict"] for gate in card["gates"]].count("passed"), missing


def test_the_page_of_common_errors_quotes_messages_of_the_code():
    """Words in backticks in the first column of its "message contains" tables stand in the source."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    page = (DOCS / "howto" / "errors.md").read_text(encoding="utf-8")
    tables = re.findall(r"^\| message contains .*\n\|.*\n((?:\|.*\n)+)", page, re.MULTILINE)
    quotes = [words for row in "".join(tables).splitlines() for words in re.findall(r"`([^`]+)`", row.split("|")[1])]
    missing = [part for quote in quotes for part in quote.split(" … ") if part not in source]
    assert len(quotes) > 8 and not missing


def shell_commands() -> list[str]:
    """Every mdistill command in the sh blocks of the site."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts)
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("mdistill ") and "…" not in line]


@pytest.mark.parametrize("command", shell_commands())
def test_command_of_a_page_is_accepted_by_its_parser(command, tmp_path, monkeypatch):
    """Of files only run.toml is opened: the command ends once its flags are parsed."""
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/run.toml").write_text('structure = "crystal.cif"\n', encoding="utf-8")
    name, *words = shlex.split(command, comments=True)[1:]
    module = cli.module_of(name)

    class ParsedError(Exception):
        pass

    original = module.parse

    def stop(*arguments: object, **options: object) -> None:
        original(*arguments, **options)
        raise ParsedError

    further = [import_module(f"mdistill.commands.train_{product}") for product in ("direct", "stride", "transport")]
    for place in [module, *(further if name == "train" else [])]:
        monkeypatch.setattr(place, "parse", stop)
    with pytest.raises(ParsedError):
        module.main(words)

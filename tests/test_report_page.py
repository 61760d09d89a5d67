"""T29: the page shows exactly the numbers of results.json, asks nobody for anything, and reads well in light, dark and print."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdistill.errors import BadInput, MdistillError
from mdistill.estimates import Estimate, Gate
from mdistill.report import page, tables
from mdistill.report.ladder import ladder_svg
from mdistill.report.page import render, write_report
from mdistill.runs.results import Figure, Results, Series, Table, read_results, write_results
from report_sample import HOSTILE, sample

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
_POWERS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
_NUMBER = re.compile(r"[−\d][\d.\u202f]*")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with results.json and report.html; the force parity plot holds 60 000 points."""
    path = tmp_path_factory.mktemp("run with spaces é")
    write_results(path, sample(points=30_000))
    write_report(path)
    return path


class Reader(HTMLParser):
    """What a browser would see: (attributes, text) of each number, all tags with their attributes, all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.numbers: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs) if "data-unit" in dict(attrs) else None

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._open is not None:
            self.numbers.append((self._open, data))
            self._open = None


def numbers_in(raw: Any) -> Iterator[tuple[float | None, float | None, str, float | None]]:
    """(value, error, unit, upper limit) of each estimate, and each bare number of a table, straight from the JSON."""
    if isinstance(raw, dict) and "upper_limit" in raw:
        yield raw["value"], raw["error"], raw["unit"], raw["upper_limit"]
    elif isinstance(raw, (dict, list)):
        for part in raw.values() if isinstance(raw, dict) else raw:
            yield from numbers_in(part)


def check_numbers(text: str, raw: dict[str, Any]) -> int:
    """The page's numbers are those of results.json, none missing, none else; the text agrees with the value behind it."""
    seen = Reader(text).numbers
    shown = {
        (*(None if a.get(f"data-{k}") is None else float(a[f"data-{k}"] or "") for k in ("value", "error")), a["data-unit"],
         float(a["data-upper-limit"] or "") if "data-upper-limit" in a else None)
        for a, _ in seen
    }  # fmt: skip
    bare = {(cell, None, "", None) for t in raw["tables"] for row in t["rows"] for cell in row if isinstance(cell, (int, float))}
    assert shown == set(numbers_in([raw[name] for name in ("values", "gates", "rungs", "tables")])) | bare
    for attributes, words in seen:
        check_text(attributes, words)
    return len(seen)


def check_text(attributes: dict[str, str | None], words: str) -> None:
    value = attributes.get("data-value") or attributes.get("data-upper-limit")
    if value is None:
        assert words == "–"
        return
    written = _NUMBER.findall(words.partition("×")[0])
    power = re.search(r"× 10([⁻⁰¹²³⁴-⁹]+)", words)
    scale = int(power.group(1).translate(_POWERS)) if power else 0
    first, *rest = (Decimal(w.replace("\u202f", "").replace("−", "-")).scaleb(scale) for w in written)
    error = attributes.get("data-error")
    if error is not None and rest:
        step = Decimal(1).scaleb(rest[0].adjusted()) if rest[0] else Decimal(0)
        assert abs(rest[0] - Decimal(error)) <= step / 2
    else:
        step = abs(Decimal(value)) * Decimal("0.1" if "<" in words else "0.001")
        if len(first.as_tuple().digits) >= 2:
            step = max(step, Decimal(1).scaleb(int(first.as_tuple().exponent)) / 2)
    assert abs(first - Decimal(value)) <= step, f"{words!r} is not {value}"


def test_the_numbers_shown_are_those_of_results_json(folder: Path, trust: Callable[..., None]) -> None:
    raw = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    count = check_numbers((folder / "report.html").read_text(encoding="utf-8"), raw)
    limits = {float(a["data-limit"] or "") for _, a in Reader((folder / "report.html").read_text()).tags if "data-limit" in a}
    assert limits == {g["limit"] for g in raw["gates"]}
    assert count > 60
    trust("T29", "numbers on the page that differ from results.json", 0, "0")


@pytest.mark.planted
@pytest.mark.parametrize("bug", ["value", "text", "missing"])
def test_a_wrong_or_missing_number_is_caught(
    folder: Path, bug: str, monkeypatch: pytest.MonkeyPatch, trust: Callable[..., None]
) -> None:
    results = dataclasses.replace(sample(points=10), figures=[])
    raw = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if bug == "value":
        results.values["speed_up"] = dataclasses.replace(results.values["speed_up"], value=312.5)
    elif bug == "missing":
        results.gates.pop()
    else:
        original = tables.format_estimate
        monkeypatch.setattr(tables, "format_estimate", lambda e, unit=True: original(e, unit=unit).replace("28.4", "24.8"))
    with pytest.raises(AssertionError):
        check_numbers(render(results), raw)
    trust("T29", "numbers on the page that differ from results.json", "caught", "caught", planted=True)


def test_order_of_sections_and_only_those_with_content(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "The ladder", "Structure and disorder", "Gates", "Accuracy", "Dynamics", "Transport", "Training", "All values", "Notes",
        "Record", "Please cite",
    ]  # fmt: skip
    bare = render(Results(command="info", values={"atoms": Estimate(value=52, error=None, unit="")}))
    assert re.findall(r"<h2>(.*?)</h2>", bare) == ["All values", "Record"]
    assert "gates passed" not in bare
    odd = Table(name="t", title="T", section="odd & <new>", columns=["a"], rows=[["b"]])
    assert "<h2>Odd &amp; &lt;new&gt;</h2>" in render(Results(command="x", tables=[odd]))


def test_a_failed_gate_is_prominent(folder: Path) -> None:
    words = " ".join("".join(Reader((folder / "report.html").read_text(encoding="utf-8")).text).split())
    assert "✗ 5 of 6 gates passed. Failed: NVE drift" in words
    assert words.index("✗ failed NVE drift") < words.index("✓ passed force error, 600 K")
    good = render(dataclasses.replace(sample(points=10), gates=[g for g in sample(points=10).gates if g.passed]))
    assert '<p class="verdict good">' in good and "5 of 5 gates passed" in good


def test_headlines() -> None:
    found = [(h.label, h.shown.text, h.unit) for h in page.headlines(sample(points=10))]
    assert found == [
        ("speed-up", "312 ± 9×", ""), ("σ at 500 K", "< 1.9", "mS/cm"), ("σ at 700 K", "150 ± 40", "mS/cm"),
        ("σ at 900 K", "680 ± 60", "mS/cm"), ("activation energy", "0.30 ± 0.04", "eV"),
    ]  # fmt: skip
    plain = Results(command="simulate", values={"mean_temperature": Estimate(value=300.4, error=1.2, unit="K")})
    assert [(h.label, h.shown.text) for h in page.headlines(plain)] == [("mean temperature", "300.4 ± 1.2")]
    assert page.title(plain) == "mdistill simulate"
    assert page.title(sample(points=10)) == "Li₆PS₅Cl"
    assert page.title(dataclasses.replace(plain, settings={"structure": "a/b/<x>.cif"})) == "<x>.cif"


def test_names_are_text_never_markup(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    reader = Reader(text)
    assert not [tag for tag, _ in reader.tags if tag in ("script", "iframe", "object", "embed", "img", "form")]
    assert not [a for _, a in reader.tags if any(name.startswith("on") for name in a)]
    assert any(HOSTILE in part for part in reader.text)
    assert "<b>every</b>" in "".join(reader.text)
    hostile = Estimate(value=1.0, error=None, unit=f'"><script>{HOSTILE}')
    everywhere = Results(
        command=HOSTILE, settings={HOSTILE: HOSTILE, "formula": HOSTILE, "teacher": HOSTILE}, hardware={HOSTILE: [HOSTILE]},
        provenance={HOSTILE: {HOSTILE: HOSTILE}, "command_line": HOSTILE}, values={HOSTILE: hostile}, notes=[HOSTILE],
        gates=[Gate(name=HOSTILE, measured=hostile, limit=2.0, passed=True, detail=HOSTILE, parts={HOSTILE: hostile})],
        tables=[
            Table(name=HOSTILE, title=HOSTILE, section=s, columns=[HOSTILE, "speed"], rows=[[HOSTILE] * 2] * 2, caption=HOSTILE)
            for s in ("ladder", HOSTILE)
        ],
        figures=[
            Figure(name=HOSTILE, title=HOSTILE, section=HOSTILE, x_label=HOSTILE, y_label=HOSTILE, caption=f"MAE 1 {HOSTILE}",
                   series=[Series(label=HOSTILE, x=[0.0, 1.0], y=[0.0, 1.0])], kind="parity"),
        ],
        citations=[HOSTILE], version=HOSTILE, created=HOSTILE,
    )  # fmt: skip
    reader = Reader(render(everywhere))
    assert not [tag for tag, attributes in reader.tags if tag == "script" or any(n.startswith("on") for n in attributes)]


def check_self_contained(text: str) -> None:
    """No element that loads anything, no address in the styles; links to doi.org and to data in the page, and a policy that
    forbids the rest."""
    reader = Reader(text)
    for tag, attributes in reader.tags:
        assert "src" not in attributes and "srcset" not in attributes, tag
        target = attributes.get("href") or ""
        assert not target or target.startswith("#") or (tag, target) == ("link", "data:,") or tag == "a", (tag, target)
        kept = target.startswith("data:text/") and "download" in attributes
        assert tag != "a" or kept or target.startswith(("#", "https://doi.org/10."))
    assert not re.search(r"@import|url\((?!#)|expression\(", text)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text


def test_the_page_is_self_contained_and_small(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    check_self_contained(text)
    assert len(text.encode()) < 1_000_000


@pytest.mark.planted
def test_an_outside_picture_is_caught(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    with pytest.raises(AssertionError):
        check_self_contained(text.replace("<header>", "<header><img src='http://example.invalid/x.png'>"))
    with pytest.raises(AssertionError):
        check_self_contained(text.replace("<style>", "<style>@import 'http://example.invalid/x.css';", 1))


def test_the_same_results_give_the_same_bytes(folder: Path) -> None:
    results = read_results(folder)
    small = dataclasses.replace(results, figures=results.figures[3:5])
    assert render(small) == render(small)


def test_the_cells_of_a_table_are_formatted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a cell made a page of 300 rows take minutes."""
    formatted = []
    monkeypatch.setattr(page, "shown_rows", lambda table: formatted.append(table.name) or tables.shown_rows(table))
    monkeypatch.setattr(page, "numeric_columns", lambda known: formatted.append("columns") or {1})
    ranking = Table("ranking", "Ranking", "screening", ["rank", "value"], [[k, float(k)] for k in range(50)])
    text = render(Results(command="screen", tables=[ranking], provenance={}))
    assert formatted == ["ranking", "columns"] and text.count('<td class="n">') == 50


def test_misfitting_tables_and_figures_are_refused() -> None:
    table = Table(name="t", title="t", section="ladder", columns=["a", "b"], rows=[["1"]])
    with pytest.raises(BadInput, match="table 't'"):
        render(Results(command="x", tables=[table]))
    series = Series(label="s", x=[1.0, 2.0], y=[1.0, 2.0], error=[0.1])
    figure = Figure(name="f", title="", section="training", x_label="", y_label="", series=[series])
    with pytest.raises(BadInput, match="series 's'"):
        render(Results(command="x", figures=[figure]))


def test_a_missing_or_foreign_results_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text('{"format": 99}')
    with pytest.raises(BadInput, match="format 99"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results(tmp_path, Results(command="x"))
    old = write_report(tmp_path).read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(MdistillError, match="No space left"):
        write_report(tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["report.html", "results.json"]
    assert (tmp_path / "report.html").read_bytes() == old


def test_the_ladder_alone() -> None:
    svg = ladder_svg(sample(points=10))
    assert svg.startswith("<svg xmlns=") and "prefers-color-scheme:dark" in svg
    assert all(text in svg for text in ("312 ± 9× faster", "force MAE 28.4 ± 0.6 meV/Å", "19.3 ± 0.4 µs/atom/step"))
    widths = [float(w) for w in re.findall(r'class="bar"[^>]* width="([\d.]+)"', svg)]
    assert len(widths) == 2 and widths[0] > 3 * widths[1], "each decade is one step of the bar"
    assert ladder_svg(Results(command="x")) == ""


def browse(page_path: Path, profile: Path, *flags: str) -> None:
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += [
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}",
    ]
    subprocess.run([str(CHROMIUM), *quiet, *flags, page_path.as_uri()], capture_output=True, timeout=120, check=True)


def picture(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(path.read_bytes())).convert("RGB")).astype(int)


def check_scheme(pixels: np.ndarray, *, dark: bool) -> None:
    """The paper is dark or light, text stands out from it, and the first series' colour of that scheme is on the page."""
    paper = pixels[5, 5]
    assert paper.max() < 40 if dark else paper.min() > 240
    ink = np.abs(pixels - paper).max(axis=2) > 150
    assert 0.005 < ink.mean() < 0.4
    series = np.array([0x4F, 0xB0, 0xEC] if dark else [0x00, 0x72, 0xB2])
    assert (np.abs(pixels - series).max(axis=2) < 12).sum() > 300


@pytest.mark.browser
@needs_chromium
def test_chromium_shows_it_in_light_and_dark_and_asks_nobody(folder: Path, tmp_path: Path, trust: Callable[..., None]) -> None:
    asked = []
    for scheme in (0, 1):
        flags = ("--window-size=1200,3600", f"--blink-settings=preferredColorScheme={scheme}")
        asked += outside_requests(folder / "report.html", tmp_path / f"profile{scheme}", *flags)
        pixels = picture(tmp_path / f"profile{scheme}.png")
        check_scheme(pixels, dark=scheme == 0)
        with pytest.raises(AssertionError):
            check_scheme(pixels, dark=scheme == 1)
    assert asked == []
    trust("T29", "Chromium renders the page in light and in dark", "both", "both")
    trust("T29", "requests the page makes in Chromium", len(asked), "0")


@pytest.mark.browser
@needs_chromium
def test_chromium_prints_it_on_white_even_from_a_dark_desktop(folder: Path, tmp_path: Path, trust: Callable[..., None]) -> None:
    printed = tmp_path / "page.pdf"
    flags = (f"--print-to-pdf={printed}", "--no-pdf-header-footer", "--blink-settings=preferredColorScheme=0")
    browse(folder / "report.html", tmp_path / "profile", *flags)
    content = printed.read_bytes()
    assert content.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 9
    if shutil.which("pdftoppm"):
        command = ["pdftoppm", "-r", "60", "-png", "-singlefile", "-f", "1", str(printed), str(tmp_path / "first")]
        subprocess.run(command, check=True, timeout=60)
        pixels = picture(tmp_path / "first.png")
        assert pixels[3, 3].min() > 240 and np.median(pixels) > 240
    trust("T29", "printed on white", "yes", "yes")


def outside_requests(page_path: Path, profile: Path, *flags: str) -> list[str]:
    """Addresses on hosts which the page names that the browser asked for (its own housekeeping goes to other hosts)."""
    log = profile.with_suffix(".json")
    browse(page_path, profile, f"--log-net-log={log}", f"--screenshot={profile.with_suffix('.png')}", *flags)
    hosts = set(re.findall(r"https?://([\w.:-]+)", page_path.read_text(encoding="utf-8")))
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    asked = [str(e["params"]["url"]) for e in events if "url" in e.get("params", {})]
    return [url for url in asked if any(f"//{host}" in url for host in hosts)]


@pytest.mark.browser
@needs_chromium
@pytest.mark.planted
def test_chromium_asking_somebody_is_noticed(folder: Path, tmp_path: Path, trust: Callable[..., None]) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    planted = tmp_path / "planted.html"
    planted.write_text(text.replace("<header>", "<header><img src='http://picture.invalid/x.png'>"), encoding="utf-8")
    asked = outside_requests(planted, tmp_path / "profile")
    assert any("picture.invalid" in url for url in asked)
    trust("T29", "requests the page makes in Chromium", "caught", "caught", planted=True)


@pytest.mark.browser
@needs_chromium
def test_nothing_is_wider_than_a_narrow_window(folder: Path, tmp_path: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    measure = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    probe = tmp_path / "probe.html"
    probe.write_text(text.replace("</body>", measure), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(f"<title></title><iframe src='{probe.name}' style='width:420px;height:900px;border:0'></iframe>"
                     "<script>onload = () => document.title = frames[0].document.title</script>", encoding="utf-8")  # fmt: skip
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run(
        [str(CHROMIUM), *quiet, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert found and int(found.group(1)) <= int(found.group(2)) <= 420


@pytest.mark.browser
@pytest.mark.skipif(FIREFOX is None, reason="no Firefox here")
@pytest.mark.parametrize("dark", [False, True])
def test_firefox_shows_it(folder: Path, tmp_path: Path, dark: bool, trust: Callable[..., None]) -> None:
    profile, shot = tmp_path / "profile", tmp_path / "shot.png"
    profile.mkdir()
    choices = {"ui.systemUsesDarkTheme": int(dark), "layout.css.prefers-color-scheme.content-override": 0 if dark else 1}
    (profile / "user.js").write_text("".join(f'user_pref("{k}", {v});\n' for k, v in choices.items()))
    command = [str(FIREFOX), "--headless", "--no-remote", "--profile", str(profile), "--screenshot", str(shot)]
    subprocess.run(
        [*command, "--window-size=1200,3600", (folder / "report.html").as_uri()], capture_output=True, timeout=120, check=True
    )
    check_scheme(picture(shot), dark=dark)
    trust("T29", f"Firefox renders the page in {'dark' if dark else 'light'}", "yes", "yes")

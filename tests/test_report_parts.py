"""Parts of the page: tiles with their doubts, failed gates first, structures in space, data of figures, paper."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read

from mdistill.estimates import Estimate
from mdistill.report import headlines as tiles
from mdistill.report.density_maps import density_svgs, hop_svgs
from mdistill.report.downloads import data_uri, figure_csv, scene_xyz
from mdistill.report.headlines import headlines
from mdistill.report.ladder import ladder_svg
from mdistill.report.page import render, write_report
from mdistill.report.scene import build_model, scene_data, scene_svg
from mdistill.report.tables import format_estimate, interval_text
from mdistill.runs.results import Results, Series, write_results
from report_sample import rich_sample, sample, scenes
from test_report_page import CHROMIUM, Reader, browse, check_numbers, check_self_contained, needs_chromium, outside_requests


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rich")
    write_results(path, rich_sample(points=2000))
    write_report(path)
    return path


def test_a_tile_has_its_interval_parts_and_doubts() -> None:
    shown = {tile.label: tile for tile in headlines(rich_sample())}
    sigma = shown["σ at 700 K"]
    assert sigma.interval == "80 to 240" and {name: part.text for name, part in sigma.parts.items()} == {
        "statistical": "30", "model": "28",
    }  # fmt: skip
    assert sigma.doubts == ["Only 18 hops <b>seen</b>.", "A gate failed."]
    assert shown["σ at 500 K"].doubts == ["Below detection: a 95 % upper limit.", "A gate failed."]
    assert shown["speed-up"].doubts == [] and shown["speed-up"].interval == "295 to 329"


def test_doubts_follow_from_verdicts_and_values_not_from_words() -> None:
    results = rich_sample()
    sound = replace(results, gates=[replace(g, passed=True, name="failed", detail="below detection") for g in results.gates])
    assert {tile.label: tile.doubts for tile in headlines(sound)}["σ at 900 K"] == []
    broken = replace(results, gates=[replace(g, passed=False) for g in results.gates])
    assert all(tile.doubts[-1] == "6 gates failed." for tile in headlines(broken) if tile.label != "speed-up")


@pytest.mark.planted
def test_a_tile_that_hides_a_failed_gate_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "doubts", lambda headline, results: list(headline.doubts))
    with pytest.raises(AssertionError):
        test_a_tile_has_its_interval_parts_and_doubts()


def test_what_failed_comes_first_with_limit_and_way_out(folder: Path) -> None:
    words = " ".join("".join(Reader((folder / "report.html").read_text(encoding="utf-8")).text).split())
    failed = words.index("NVE drift: 2.4 ± 0.4 meV/atom/ps, limit ≤ 0.5 meV/atom/ps")
    way_out, tile = words.index("Shorten the time step"), words.index("95 %: 295 to 329")
    assert failed < way_out < tile < words.index("Only 18 hops") < words.index("From teacher to student")


def test_numbers_and_addresses_of_the_rich_page(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    check_numbers(text, json.loads((folder / "results.json").read_text(encoding="utf-8")))
    check_self_contained(text)
    assert len(text.encode()) < 1_000_000


def check_script(text: str) -> None:
    """One script, the one that the policy names; none where there is nothing to rotate."""
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1 and [tag for tag, _ in Reader(text).tags].count("script") == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\">" in text
    assert not [a for _, a in Reader(text).tags if any(name.startswith("on") for name in a)]


def test_the_only_script_is_the_viewer(folder: Path) -> None:
    text = (folder / "report.html").read_text(encoding="utf-8")
    check_script(text)
    assert len(re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0].encode()) < 15_000
    assert "<script" not in render(sample(points=5)) and "script-src" not in render(sample(points=5))
    with pytest.raises(AssertionError):
        check_script(text.replace('"use strict"', '"use strict";alert(1)'))


def test_a_network_without_end_stays_in_its_cell() -> None:
    metal = bulk("Cu", cubic=True) * (3, 3, 3)
    moved = metal.positions - 1e-6
    scene = replace(
        scenes()[0], numbers=metal.numbers.tolist(), positions=moved.tolist(), cell=metal.cell.array.tolist(), mobile=0, hops=[]
    )
    model = build_model(scene)
    assert np.allclose(model.positions + model.middle, moved, atol=1e-9)
    assert len(model.bonds) == 450  # of 648: 6 for each atom; none across a face


def test_molecules_are_whole_and_the_mobile_ion_has_no_bonds() -> None:
    scene = scenes()[0]
    model = build_model(scene)
    assert len(model.bonds) == 8 and all({scene.numbers[a], scene.numbers[b]} == {15, 16} for a, b in model.bonds.tolist())
    lengths = np.linalg.norm(model.positions[model.bonds[:, 0]] - model.positions[model.bonds[:, 1]], axis=1)
    np.testing.assert_allclose(lengths, 2.05, atol=1e-6)
    assert len(model.edges) == 12 and np.abs(model.edges.reshape(-1, 3).mean(axis=0)).max() < 1e-9
    open_cell = build_model(replace(scene, cell=[[0.0] * 3] * 3))
    assert len(open_cell.edges) == 0 and len(open_cell.bonds) < 8
    assert scene_svg(scene).count("<use") == 18 and len(json.loads(scene_data(scene))["atoms"]) == 18


def peak_of(svg: str) -> np.ndarray:
    """Middle of the densest contour, pixels."""
    path = re.findall(r'class="cloud" d="([^"]+)"', svg)[-1]
    points = np.array([[float(v) for v in pair.split()] for pair in re.split(r"[MLZ]+", path) if pair])
    return (points.min(axis=0) + points.max(axis=0)) / 2


def corners_of(svg: str) -> np.ndarray:
    return np.array([[float(v) for v in p.split()] for p in re.split(r"[MLZ]+", re.findall(r'<path d="([^"]+)"', svg)[0]) if p])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_density_is_drawn_where_it_is(axis: int) -> None:
    svg = density_svgs(scenes()[1])[axis]
    origin, right, _, up = corners_of(svg)
    place = np.delete((np.array([4, 5, 15]) + 0.5) / np.array([16, 18, 20]), axis)
    expected = origin + place[0] * (right - origin) + place[1] * (up - origin)
    np.testing.assert_allclose(peak_of(svg), expected, atol=6.0)
    assert svg.count("<circle") >= 6


def test_a_hop_across_a_face_is_drawn_at_both_sides() -> None:
    panels = hop_svgs(scenes()[1])
    assert [panel.count('class="hop"') for panel in panels] == [2, 2, 2]
    assert hop_svgs(scenes()[0]) == [] and density_svgs(scenes()[0]) == []


def test_a_figure_comes_back_from_its_link() -> None:
    for figure in [f for f in rich_sample().figures if f.kind != "parity"]:
        text = unquote(data_uri(figure_csv(figure)).partition(",")[2])
        heading, *rows = list(csv.reader(io.StringIO(text)))
        assert heading == ["series", figure.x_label, figure.y_label, "standard error"]
        flat = [(s.label, x, y) for s in figure.series for x, y in zip(s.x, s.y, strict=True)]
        assert [row[0] for row in rows] == [label for label, _, _ in flat]
        for row, (_, x, y) in zip(rows, flat, strict=True):
            assert float(row[1]) == pytest.approx(x, rel=1e-5) and (
                row[2] == "" if y is None else math.isclose(float(row[2]), y, rel_tol=1e-5)
            )
    odd = replace(figure, series=[Series(label='a,"b"\n=c', x=[1.0], y=[2.0], error=[0.5])])
    assert list(csv.reader(io.StringIO(figure_csv(odd))))[1] == ['a,"b"\n=c', "1", "2", "0.5"]


def test_a_structure_is_read_by_other_programs() -> None:
    scene = scenes()[0]
    atoms = read(io.StringIO(scene_xyz(scene)), format="extxyz")
    assert atoms.numbers.tolist() == scene.numbers
    np.testing.assert_allclose(atoms.positions, scene.positions, atol=1e-3)
    np.testing.assert_allclose(atoms.cell, scene.cell, atol=1e-3)


def test_errors_of_rounding_are_not_printed() -> None:
    assert format_estimate(Estimate(value=4.7 / 3.0, error=1.1e-17, unit="GPa")) == "1.567 GPa"
    assert format_estimate(Estimate(value=1.0 / 3.0, error=0.0, unit="eV")) == "0.3333 ± 0 eV"
    assert interval_text(Estimate(value=1.0, error=0.0, unit="")) == ""
    assert interval_text(Estimate(value=3.1e-6, error=4e-7, unit="")) == "(2.3 to 3.9) × 10⁻⁶"
    assert interval_text(Estimate(value=0.43, error=0.9, unit="", interval=(0.045, 3.3))) == "0.045 to 3.3"
    assert interval_text(Estimate(value=3e-9, error=6e-9, unit="", interval=(3.2e-10, 2.3e-8))) == "3.2 × 10⁻¹⁰ to 2.3 × 10⁻⁸"
    assert interval_text(Estimate(value=470.0, error=90.0, unit="", interval=(318.0, 702.0))) == "320 to 700"


def test_bars_of_the_ladder_end_on_the_named_axis() -> None:
    svg = ladder_svg(sample(points=5))
    ticks = {float(n): float(x) for x, n in re.findall(r'class="tick" x="([\d.]+)"[^>]*>([\d.]+)<', svg)}
    assert {10.0, 100.0, 1000.0, 10000.0} <= set(ticks) and "µs/atom/step, logarithmic" in svg
    ends = [float(x) + float(w) for x, w in re.findall(r'class="bar" x="([\d.]+)"[^>]* width="([\d.]+)"', svg)]
    slope = (ticks[10000.0] - ticks[10.0]) / 3.0
    for end, cost in zip(ends, (6021.0, 19.27), strict=True):
        assert end == pytest.approx(ticks[10.0] + slope * (math.log10(cost) - 1.0), abs=0.2)


@pytest.mark.browser
@needs_chromium
def test_chromium_runs_the_viewer_under_the_policy_and_asks_nobody(folder: Path, tmp_path: Path) -> None:
    assert outside_requests(folder / "report.html", tmp_path / "profile", "--window-size=1200,2000") == []
    text = (folder / "report.html").read_text(encoding="utf-8")
    probe = """<script>setTimeout(() => { const one = document.querySelector('.scene.live canvas');
      const data = one.getContext('2d').getImageData(0, 0, one.width, one.height).data;
      document.title = 'drawn ' + data.filter((v, i) => i % 4 === 3 && v > 0).length; }, 500)</script></body>"""
    page = tmp_path / "probe.html"
    page.write_text(
        re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("</body>", probe), encoding="utf-8"
    )
    assert int(dumped(page, tmp_path / "p2").partition("<title>drawn ")[2].partition("<")[0]) > 5000
    assert dumped(folder / "report.html", tmp_path / "p3").count('class="scene live"') == 2
    planted = tmp_path / "planted.html"
    planted.write_text(text.replace('"use strict"', '"use strict" '), encoding="utf-8")
    assert 'class="scene live"' not in dumped(planted, tmp_path / "p4"), "a script of other content is refused"


@pytest.mark.browser
@needs_chromium
def test_paper_has_at_most_eight_pages(folder: Path, tmp_path: Path) -> None:
    printed = tmp_path / "page.pdf"
    browse(folder / "report.html", tmp_path / "profile", f"--print-to-pdf={printed}", "--no-pdf-header-footer")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", printed.read_bytes())) <= 8


def dumped(path: Path, profile: Path) -> str:
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--virtual-time-budget=3000",
        f"--user-data-dir={profile}",
    ]
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_results_without_scenes_have_no_pictures() -> None:
    assert 'class="scene"' not in render(Results(command="x", values={"a": Estimate(value=1.0, error=None, unit="")}))

"""Figures: what is drawn is what results.json holds, whatever the labels say, the same bytes each time."""

from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from mdistill.report import figures
from mdistill.report.figures import draw, figure_svg, write_figures
from mdistill.runs.results import Figure, Results, Series, read_results, write_results
from report_sample import HOSTILE, sample


def parsed(svg: str | bytes) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314


SVG = "{http://www.w3.org/2000/svg}"


def make(kind: str = "line", **series: object) -> Figure:
    one = {"label": "student", "x": [1.0, 2.0, 4.0, 5.0], "y": [3.0, 1.0, 8.0, 2.0]} | series
    return Figure(name="f", title="t", section="dynamics", x_label="x (ps)", y_label="y (Å)", series=[Series(**one)], kind=kind)  # type: ignore[arg-type]


def drawn_points(svg: str, index: int = 0) -> np.ndarray:
    """[point, 2] page coordinates of a series: the corners of its line, or the places of its markers."""
    group = next(g for g in parsed(svg).iter(f"{SVG}g") if g.get("id", "").endswith(f"series-{index}"))
    uses = [(float(u.get("x", 0)), float(u.get("y", 0))) for u in group.iter(f"{SVG}use")]
    path = next(group.iter(f"{SVG}path"))
    return np.array(uses or [[float(v) for v in pair] for pair in re.findall(r"[ML] ([-\d.]+) ([-\d.]+)", path.get("d", ""))])


def check_drawn(figure: Figure, x: list[float], y: list[float]) -> None:
    """Page coordinates are straight-line functions of the data, to a fiftieth of a point."""
    points = drawn_points(figure_svg(figure, inline=False))
    assert len(points) == len(x)
    for data, place, rising in ((x, points[:, 0], True), (y, points[:, 1], False)):
        slope, offset = np.polyfit(data, place, 1)
        assert (slope > 0) == rising
        np.testing.assert_allclose(slope * np.asarray(data) + offset, place, atol=0.02)


def test_the_drawn_line_is_the_data() -> None:
    figure = make()
    check_drawn(figure, figure.series[0].x, figure.series[0].y)
    parity = make("parity")
    check_drawn(parity, parity.series[0].x, parity.series[0].y)


def test_an_arrhenius_plot_has_the_logarithm_of_y() -> None:
    figure = make("arrhenius", x=[1.1, 1.4, 2.0], y=[6.0e5, 1.0e5, 9.0e2], style="line")
    check_drawn(figure, figure.series[0].x, np.log(figure.series[0].y).tolist())
    svg = figure_svg(figure)
    assert ">T (K)<" in svg and all(f">{t}<" in svg for t in (909, 714, 500))


@pytest.mark.planted
def test_swapped_axes_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    original = figures._series

    def swapped(axes: object, figure: Figure, series: Series, colour: str, index: int) -> None:
        original(axes, figure, dataclasses.replace(series, x=series.y, y=series.x), colour, index)

    monkeypatch.setattr(figures, "_series", swapped)
    with pytest.raises(AssertionError):
        check_drawn(make(), [1.0, 2.0, 4.0, 5.0], [3.0, 1.0, 8.0, 2.0])


def test_the_same_bytes_each_time_and_no_date() -> None:
    for figure in sample(points=50).figures:
        first = figure_svg(figure, number=3)
        assert first == figure_svg(figure, number=3)
        assert not re.search(r"20\d\d-\d\d-\d\d|matplotlib v|Matplotlib", first)


def test_ids_of_different_figures_do_not_clash() -> None:
    drawn = [figure_svg(f, number=i) for i, f in enumerate(sample(points=50).figures)]
    ids = [name for svg in drawn for name in re.findall(r'\bid="([^"]+)"', svg)]
    assert len(ids) == len(set(ids))
    wanted = {name for svg in drawn for name in re.findall(r'(?:href="#|url\(#)([^")]+)', svg)}
    assert wanted <= set(ids)


def test_inline_colours_are_the_pages_and_files_stand_alone() -> None:
    figure = sample(points=50).figures[3]
    inline, alone = figure_svg(figure), figure_svg(figure, inline=False)
    assert not re.search(r"#[0-9a-f]{6}", inline)
    assert "var(--series-1)" in inline and "currentColor" in inline and "font-family" not in inline
    assert "var(" not in alone and "#0072b2" in alone
    assert parsed(inline) is not None and parsed(alone) is not None


@pytest.mark.parametrize("label", [HOSTILE, "$\\frac{", "_hidden", "a\x00b\x1b[31m", "100 % & < > \"'", "電", 'id="x" #0072b2'])
def test_labels_are_text_whatever_they_hold(label: str) -> None:
    svg = figure_svg(dataclasses.replace(make(label=label), title=label, x_label=label))
    texts = ["".join(t.itertext()) for t in parsed("<r xmlns:x='x'>" + svg + "</r>").iter() if t.tag == "text"]
    clean = "".join(c for c in label if c.isprintable()).lstrip("_")
    expected = clean if len(clean) <= 44 else clean[:43] + "…"
    assert texts.count(expected) == 2, "axis label and legend entry"
    assert "<script" not in svg


def test_teacher_and_student_of_one_pair_share_a_colour_and_differ_by_dash() -> None:
    names = ["teacher Li–S", "student Li–S", "teacher P–S", "student P–S"]
    pair = [
        Series(label=n, subject=n.split()[1], x=[0, 1], y=[0, 1], style="dashed" if "teacher" in n else "line") for n in names
    ]
    colours = figures._colours(pair)
    assert colours[0] == colours[1] != colours[2] == colours[3]
    both = [Series(label=n, x=[0], y=[0]) for n in ("teacher", "student")]
    assert len(set(figures._colours(both))) == 2
    about = {
        "student": "student",
        "student, 95 % upper limit": "student",
        "fit, Eₐ = 0.3 eV": "student",
        "900 K": "",
        "900 K fit": "900 K",
    }
    fits = [Series(label=n, subject=subject, x=[0], y=[0]) for n, subject in about.items()]
    assert figures._colours(fits) == [figures.PALETTE[0]] * 3 + [figures.PALETTE[1]] * 2


def test_dense_parity_keeps_every_outlier_and_stays_small() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=60_000)
    y = x + rng.normal(0, 0.02, x.size)
    y[17] = x[17] + 3.0
    svg = figure_svg(make("parity", x=x.tolist(), y=y.tolist()))
    assert len(svg) < 200_000
    points = drawn_points(figure_svg(make("parity", x=x.tolist(), y=y.tolist()), inline=False))
    span = np.ptp(points, axis=0).max()
    assert (points.sum(axis=1) - np.median(points.sum(axis=1))).min() < -0.2 * span, "the outlier above the diagonal is drawn"


def test_a_long_curve_keeps_its_extremes() -> None:
    y = np.sin(np.arange(50_000) / 700.0)
    y[31_234] = 9.0
    kept = figures._envelope(y)
    assert len(kept) <= 1002 and {0, 31_234, 49_999} <= set(kept.tolist())
    assert y[kept].min() == y.min()


def test_gaps_limits_and_empty_figures_are_drawn() -> None:
    assert len(drawn_points(figure_svg(make(y=[1.0, None, 2.0, 3.0]), inline=False))) == 3
    for kind in ("line", "loglog", "logy", "parity", "arrhenius", "bands"):
        parsed(figure_svg(make(kind, x=[], y=[])))
        parsed(figure_svg(make(kind, x=[1.0, 2.0], y=[0.0, -1.0], error=[0.1, None], style="points")))
        parsed(figure_svg(dataclasses.replace(make(kind), series=[])))


def bands() -> Figure:
    line = Series(label="student", x=[0.0, 1.0, 2.0, 2.0, 0.0, 1.0, 2.0], y=[0.0, 3.0, 1.0, math.nan, 4.0, 5.0, 6.0])
    dots = dataclasses.replace(line, label="teacher", style="points")
    return dataclasses.replace(make("bands"), series=[dots, line], x_ticks=[("Γ", 0.0), ("U|K", 2.0)])


def test_bands_have_their_special_points_and_a_gap_between_bands() -> None:
    svg = figure_svg(bands(), inline=False)
    assert ">Γ<" in svg and ">U|K<" in svg and ">0.5<" not in svg
    group = next(g for g in parsed(svg).iter(f"{SVG}g") if g.get("id", "").endswith("series-1"))
    path = next(group.iter(f"{SVG}path")).get("d", "")
    assert path.count("M") == 2 and path.count("L") == 4, "two bands of three points, not joined"
    assert len(drawn_points(svg, index=0)) == 6
    y = [math.sin(0.01 * k) for k in range(1200)]
    many = Series(label="student", x=[*range(600), 599, *range(600)], y=[*y[:600], math.nan, *y[600:]])
    long = parsed(figure_svg(dataclasses.replace(bands(), series=[many]), inline=False))
    group = next(g for g in long.iter(f"{SVG}g") if g.get("id", "").endswith("series-0"))
    assert next(group.iter(f"{SVG}path")).get("d", "").count("M") == 2, "a long figure keeps its gaps too"


def test_special_points_survive_the_file(tmp_path: Path) -> None:
    results = Results(command="x", figures=[bands(), make()])
    found = read_results(write_results(tmp_path, results)).figures
    assert found[0].x_ticks == [("Γ", 0.0), ("U|K", 2.0)] and found[1].x_ticks == []
    assert figure_svg(found[0]) == figure_svg(bands())


def test_files_for_papers(tmp_path: Path) -> None:
    given = [dataclasses.replace(make(), name="../a b/<c>"), make()]
    paths = write_figures([draw(figure) for figure in given], tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == [
        "figures/01_.._a_b_c_.svg", "figures/01_.._a_b_c_.png", "figures/02_f.svg", "figures/02_f.png",
    ]  # fmt: skip
    before = [p.read_bytes() for p in paths]
    assert before[1].startswith(b"\x89PNG")
    write_figures([draw(figure) for figure in given], tmp_path)
    assert before == [p.read_bytes() for p in paths]
    parsed(before[0])


def test_a_narrow_logarithmic_axis_still_has_numbers():
    narrow = Figure(
        name="front",
        title="Front",
        section="accuracy",
        kind="loglog",
        x_label="time (µs)",
        y_label="error",
        series=[Series(label="a", x=[3.0, 4.3, 5.3], y=[47.0, 43.0, 37.0], style="points")],
    )
    texts = set(re.findall(r">([\d.]+)</text>", figure_svg(narrow)))
    assert {"3", "4", "5"} <= texts and "40" in texts


def test_a_long_legend_of_an_arrhenius_plot_covers_no_curve() -> None:
    """Six structures with upper limits, as of a screening: one entry each, one for all limits, none over the axes."""
    series, x = list[Series](), [1000.0 / t for t in (600.0, 800.0, 1000.0, 1200.0)]
    for k in range(6):
        name = f"candidate {k} with a long name.cif"
        y = [10.0 ** (-4.0 - 0.3 * k - at) for at in x]
        series.append(Series(label=name, x=x, y=y, style="line"))
        series.append(Series(label=f"{name} upper limit", subject=name, x=x[:1], y=y[:1], style="points", limit=True))
    canvas = figures._draw(dataclasses.replace(make("arrhenius"), series=series))
    canvas.canvas.draw()
    axes, (legend,) = canvas.axes[0], canvas.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert len(texts) == 7 and texts[-1] == "upper limit"
    box, plot = legend.get_window_extent(), axes.get_tightbbox()
    assert box.y1 <= plot.y0 + 1.0 and plot.height > 0.5 * canvas.bbox.height and box.y0 >= -1.0
    top = axes.child_axes[0]
    assert [text.get_text() for text in top.get_xticklabels()] == ["1200", "1000", "800", "600"]

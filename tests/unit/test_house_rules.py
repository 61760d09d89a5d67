"""The house rules see what they are to see."""

from __future__ import annotations

import house_rules


def test_a_circle_is_found_whatever_its_length() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": set()}
    assert house_rules.circles(graph) == [["a", "b", "c"]]
    assert house_rules.circles(graph | {"c": set()}) == []


def test_imports_for_the_type_checker_count(tmp_path, monkeypatch) -> None:
    room = tmp_path / "room"
    room.mkdir()
    (tmp_path / "__init__.py").write_text("")
    (room / "__init__.py").write_text("")
    (room / "one.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mdistill.room.two import Two\n")
    (room / "two.py").write_text("def late():\n    from mdistill.room import one\n")
    monkeypatch.setattr(house_rules, "SOURCE", tmp_path)
    assert house_rules.circles(house_rules.imports()) == [["mdistill.room.one", "mdistill.room.two"]]


def test_old_names_are_found_as_whole_words_only(tmp_path, monkeypatch) -> None:
    (tmp_path / "page.md").write_text(
        "A SplineNet, mdistill.io.results.\nBaseFlights and mdistill.simulation.recorder are other words.\n"
    )
    monkeypatch.setattr(house_rules, "ROOT", tmp_path)
    assert [place.split("page.md:")[1] for place in house_rules.forgotten()] == [
        "1: SplineNet is called otherwise today",
        "1: mdistill.io.results is called otherwise today",
    ]


def test_a_crowded_room_is_found(tmp_path, monkeypatch) -> None:
    for room, length in (("nets", 3000), ("io", 3001), ("workflows", 2001)):
        (tmp_path / room).mkdir()
        (tmp_path / room / "one.py").write_text("\n" * length)
    monkeypatch.setattr(house_rules, "SOURCE", tmp_path)
    assert [place.split("/")[-1] for place in house_rules.crowded()] == [
        "io: 3001 lines, at most 3000",
        "workflows: 2001 lines, at most 2000",
    ]

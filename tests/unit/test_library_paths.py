"""Names in place of paths, in what a ready student carries away from the machine that made it."""

from __future__ import annotations

import pytest

from mdistill.library.plain import places_in, plain_command, without_paths


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("mdistill distill runs/x/crystal.cif --out /home/me/run", "mdistill distill crystal.cif --out run"),
        ("mdistill distill '/home/Alice Smith/x 1.cif' --threads 1", "mdistill distill 'x 1.cif' --threads 1"),
        ("mdistill distill a.cif --hard=/secret/pool.xyz", "mdistill distill a.cif --hard=pool.xyz"),
        ("mdistill distill --smiles C/C=C/C --copies 8", "mdistill distill --smiles C/C=C/C --copies 8"),
        ("mdistill distill --smiles=C/C=C/C --out a/b", "mdistill distill --smiles=C/C=C/C --out b"),
        ("", ""),
    ],
)
def test_a_command_line_keeps_the_last_name_of_each_path(line, shown):
    assert plain_command(line) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("force error 82 ± 2 meV/Å, 0.5/GPa, 1/cm", None),
        ("half of ‖ΔH‖/‖H‖ and/or 3 / 4, https://doi.org/10.1/abc", None),
        ("kept in run/label/broken/0-contact.extxyz", None),
        ("labels (/data/me/run/label/0.extxyz) were left out", "labels (0.extxyz) were left out"),
        ("~/secret/x.cif, ../y/z.cif and './a/b.py:calculator'", "x.cif, z.cif and 'b.py:calculator'"),
        ("in /data/Alice Smith/run 1/label/broken/a.extxyz", "in run 1/label/broken/a.extxyz"),
        ("/data/Alice Smith/x.cif", "x.cif"),
    ],
)
def test_texts_lose_the_folders_of_paths_and_keep_units(text, shown):
    place = ["/data/Alice Smith"]
    assert without_paths({"notes": [text, 1.5, None]}, place) == {"notes": [text if shown is None else shown, 1.5, None]}


def test_folders_are_found_at_any_depth():
    assert set(places_in({"a": ["/x/y z/c.cif", 3], "b": {"c": "/q/r"}, "d": "m/n"})) == {"/x/y z", "/q"}

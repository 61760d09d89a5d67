"""The correction of σ(300 K) by ion sites and predicted motion: what it learns, what it leaves alone, what its file keeps."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile

import numpy as np
import pytest
from ase.build import make_supercell
from ase.io import write
from ase.spacegroup import crystal as ase_crystal
from test_transport import synthetic, written

from conductors import cif, conductor
from mdistill import cli
from mdistill.errors import BadInput, MdistillNotice
from mdistill.io.structures import read_structure
from mdistill.screening.screen import screen
from mdistill.transport import train
from mdistill.transport.correction import CLOSE, INPUTS, correction_inputs, fit_ridge, worth
from mdistill.transport.features import Material
from mdistill.transport.model import load_transport, save_transport, shipped_model
from mdistill.transport.motion_file import shipped_motion, shipped_motion_sha256
from mdistill.transport.obelix import CIFS
from mdistill.transport.predict import predict
from mdistill.transport.settings import TransportSettings
from mdistill.transport.train import site_inputs, train_transport

SMALL = TransportSettings(trees=12, folds=4)
BASE = synthetic(3)[0]
LEARNS = 2
"""The input on which planted residuals depend."""


def planted(strength, *, seed=0, count=240):
    """Entries of far compositions, and inputs of which one changes log10 σ by `strength` decades; trees do not see it."""
    rng, entries = np.random.default_rng(seed), []
    inputs = rng.normal(size=(count, len(INPUTS)))
    for k, row in enumerate(inputs):
        if k % 3 == 0:
            first, second = rng.choice(np.arange(11, 84), 2, replace=False).tolist()
            own = 0.3 * rng.normal()
        target = -4.0 + own + strength * row[LEARNS] + 0.3 * rng.normal()
        composition = {3: rng.uniform(1.0, 4.0), first: rng.uniform(1.0, 3.0), second: 1.0}
        entries.append(
            dataclasses.replace(BASE, name=str(k), composition=composition, conductivity=10.0**target, source=f"{k // 3}")
        )
    return entries, inputs


def trained(strength, **options):
    entries, inputs = planted(strength, **options)
    return train_transport(entries, SMALL, sites=inputs, motion=shipped_motion_sha256())


def materials(entries):
    """As in the table, not close to one of training."""
    return [Material(composition=one.composition, volume=512.0, lengths=(8, 8, 8), space_group=216) for one in entries]


def said(model, entries, inputs):
    found = predict(model, materials(entries), None if inputs is None else list(inputs))
    return [(one.value, one.interval_68, one.interval_95, one.basis, one.correction) for one in found]


@pytest.fixture(scope="module")
def learned():
    return trained(1.0)


# ---- what it learns


def errors(model, entries, inputs):
    """Mean absolute errors of new groups, without and with the correction."""
    target = np.array([one.target for one in entries])
    plain, better = (predict(model, materials(entries), sites) for sites in (None, list(inputs)))
    return [float(np.abs([one.value for one in found] - target).mean()) for found in (plain, better)]


def test_residuals_that_depend_on_an_input_are_learned(learned):
    made = learned.correction
    others = np.delete(made.ridge.weights, LEARNS)
    assert made.ridge.weights[LEARNS] == pytest.approx(0.5, abs=0.12) and np.abs(others).max() < 0.12
    assert made.error < 0.85 * made.without and made.shown and 200 < made.entries <= 240
    plain, better = errors(learned, *planted(1.0, seed=7))
    assert better < 0.85 * plain and better == pytest.approx(made.error, rel=0.15)


def test_residuals_that_depend_on_nothing_are_left_alone():
    made = trained(0.0).correction
    assert np.abs(made.ridge.weights).max() < 0.05 and abs(made.gain[0]) < 0.02 and not made.shown
    assert "not shown" in worth(made)


@pytest.mark.planted
@pytest.mark.parametrize("fault", ["sign", "order of inputs"])
def test_a_planted_fault_of_the_ridge_makes_held_out_errors_larger(fault, monkeypatch):
    def wrong(inputs, residuals):
        made = fit_ridge(inputs, residuals)
        return dataclasses.replace(made, weights=-made.weights if fault == "sign" else np.roll(made.weights, 1))

    monkeypatch.setattr(train, "fit_ridge", wrong)
    made = trained(1.0).correction
    assert made.error > made.without and made.gain[0] > 0.0


def test_shrinkage_is_that_of_the_stated_equation():
    """An input that is independent of the others keeps half of its least-squares weight; a constant one none."""
    rng = np.random.default_rng(0)
    inputs = np.linalg.qr(np.column_stack([np.ones(64), rng.normal(size=(64, len(INPUTS)))]))[0][:, 1:]
    inputs[:, -1] = 3.0
    residuals = 5.0 * inputs[:, 0] + 1.7
    made = fit_ridge(100.0 * inputs, residuals)
    assert made.weights[0] / made.deviation[0] * 100.0 == pytest.approx(2.5)
    assert np.abs(made.weights[1:]).max() < 1e-12
    assert made.values(100.0 * inputs).mean() == pytest.approx(0.0, abs=1e-12)


def test_intervals_of_corrected_values_hold_the_truth(learned):
    inside = {0: [], 1: []}
    for seed in (7, 8):
        entries, inputs = planted(1.0, seed=seed)
        for one, found in zip(entries, predict(learned, materials(entries), list(inputs)), strict=True):
            for k, (low, high) in enumerate((found.interval_68, found.interval_95)):
                inside[k].append(low <= one.target <= high)
    assert 0.60 <= np.mean(inside[0]) <= 0.82 and 0.90 <= np.mean(inside[1]) <= 1.0
    assert learned.correction.factors != learned.bases["symmetry"].factors


def test_the_entries_of_a_fold_are_not_known_to_its_ridge():
    """Residuals that are pure chance of a group, with an input that names the group: only a leak could learn them."""
    entries, group = planted(0.0)[0], np.repeat(np.arange(80), 3)
    chance = np.random.default_rng(3).normal(size=80)
    inputs = np.tile(chance[group][:, None], (1, len(INPUTS))) + 0.01 * np.random.default_rng(4).normal(size=(240, len(INPUTS)))
    target = np.random.default_rng(5).normal(size=80)[group]
    entries = [dataclasses.replace(one, conductivity=10.0 ** (t - 4)) for one, t in zip(entries, target, strict=True)]
    assert train_transport(entries, SMALL, sites=inputs, motion="").correction.gain[0] > -0.02


# ---- where it is used


def test_inputs_beyond_training_count_as_the_nearest_and_are_told(learned):
    entries, inputs = planted(1.0, seed=7)
    edge, beyond = inputs[:1].copy(), inputs[:1].copy()
    edge[0, LEARNS] = learned.correction.ridge.highest[LEARNS]
    beyond[0, LEARNS] = 100.0
    one, other = (predict(learned, materials(entries[:1]), list(given))[0] for given in (edge, beyond))
    assert one.value == other.value and one.notes == () and other.doubts == one.doubts
    assert INPUTS[LEARNS] in other.notes[0] and "100.00" in other.notes[0]


def test_composition_alone_is_not_corrected(learned):
    ordered = dataclasses.replace(materials(planted(1.0)[0][:1])[0], space_group=2, ordered=True)
    (one,) = predict(learned, [ordered], [np.full(len(INPUTS), 2.0)])
    assert one.basis == "composition" and one.correction == 0.0 and one == predict(learned, [ordered])[0]


def test_where_a_close_composition_was_measured_nothing_is_corrected(learned):
    entries, inputs = planted(1.0)
    known = entries[5].composition
    total = sum(known.values())
    moved = [{**known, 3: known[3] + share * total} for share in (0.0, 0.02, 0.3)]
    found = predict(learned, [dataclasses.replace(materials(entries[:1])[0], composition=one) for one in moved], [inputs[5]] * 3)
    assert [one.basis for one in found] == ["symmetry", "symmetry", "corrected"]
    assert found[0].correction == found[1].correction == 0.0 != found[2].correction
    assert found[1].distance < CLOSE < found[2].distance


def test_close_compositions_of_other_folds_are_not_among_held_out_corrections():
    """Copies under another paper: each entry has a close one in other folds, so that nothing is left to learn the worth from."""
    entries, inputs = planted(1.0, count=120)
    copies = [dataclasses.replace(one, source=f"copy {one.source}", composition=moved(one.composition)) for one in entries]
    model = train_transport([*entries, *copies], SMALL, sites=np.concatenate([inputs, inputs]), motion="")
    assert model.correction is None or model.correction.entries < 60


def moved(composition):
    """Another group by composition, yet close."""
    return {**composition, 3: composition[3] + 0.02 * sum(composition.values())}


def test_few_entries_with_a_cif_make_no_correction():
    entries, inputs = planted(1.0)
    inputs[70:] = np.nan
    assert train_transport(entries, SMALL, sites=inputs, motion="").correction is None


def unmeasured():
    """An antiperovskite of a composition that the shipped model does not know."""
    return ase_crystal(
        ["Li", "Se", "F"], [(0.5, 0, 0), (0.5, 0.5, 0.5), (0, 0, 0)], spacegroup=221, cellpar=[4.1, 4.1, 4.1, 90, 90, 90]
    )


def rows_of(results):
    table = next(one for one in results.tables if one.name == "screen")
    return {str(row[1]): dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_the_ranking_says_which_model_spoke(tmp_path):
    (tmp_path / "known.cif").write_text(cif(conductor("Li6PS5Cl")))
    write(tmp_path / "a.cif", unmeasured())
    atoms = ase_crystal(["Li", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[5.1, 5.1, 5.1, 90, 90, 90])
    atoms.rattle(0.05, seed=1)
    write(tmp_path / "p1.vasp", atoms, format="vasp")
    results = screen([tmp_path])
    rows = rows_of(results)
    assert {name: row["basis"] for name, row in rows.items()} == {
        "a.cif": "corrected", "known.cif": "symmetry", "p1.vasp": "composition",
    }  # fmt: skip
    assert rows["p1.vasp"]["correction"] is rows["known.cif"]["correction"] is None and abs(rows["a.cif"]["correction"]) > 0.001
    (plain,) = predict(shipped_model(), [material_in(tmp_path / "a.cif")])
    assert rows["a.cif"]["log10 σ(300 K) (S/cm)"].value == pytest.approx(plain.value + rows["a.cif"]["correction"], abs=0.006)
    assert any("1 of 3 values are corrected" in note and "allowing for 6 variants" in note for note in results.notes)
    assert "sevennet" in results.citations


def material_in(path):
    from mdistill.transport.features import material_of

    return material_of(read_structure(path))


@pytest.mark.parametrize("matrix", [np.diag([2, 1, 3]), [[1, 1, 0], [0, 1, 0], [1, 0, 2]]])
def test_a_rotated_supercell_has_the_same_value(matrix, tmp_path):
    atoms = unmeasured()
    large = make_supercell(atoms, matrix)
    large.rotate(37.0, (1, 2, 3), rotate_cell=True)
    write(tmp_path / "one.extxyz", atoms)
    write(tmp_path / "other.extxyz", large)
    one, other = rows_of(screen([tmp_path])).values()
    assert one["basis"] == other["basis"] == "corrected" and one["correction"] == other["correction"] != 0.0
    assert one["log10 σ(300 K) (S/cm)"].value == pytest.approx(other["log10 σ(300 K) (S/cm)"].value, abs=1e-4)


def test_inputs_are_those_of_their_names(tmp_path):
    (tmp_path / "a.cif").write_text(cif(conductor("Li6PS5Cl")))
    found = dict(zip(INPUTS, correction_inputs(read_structure(tmp_path / "a.cif"), shipped_motion(), mobile=3), strict=True))
    rows = screen([tmp_path / "a.cif"], temperatures_K=(600.0, 1200.0)).tables[0].rows[0]
    assert found["log10 MSD at 600 K (Å²)"] == pytest.approx(rows[3].value, abs=1e-4)
    assert found["growth of log10 MSD from 600 to 1200 K"] == pytest.approx(rows[4].value - rows[3].value, abs=2e-4)
    assert found["any partial site"] == 1.0 and 0.0 < found["share of ions on partial sites"] <= 1.0


# ---- data and file


def archive(folder, texts):
    with tarfile.open(folder / CIFS, "w:gz") as made:
        for name, text in texts.items():
            member = tarfile.TarInfo(f"cifs/{name}.cif")
            member.size = len(content := text.encode())
            made.addfile(member, io.BytesIO(content))


def test_cifs_that_say_nothing_are_left_out(tmp_path):
    from mdistill.transport.obelix import cif_texts, read_obelix

    entries = read_obelix(written(tmp_path))
    good = cif(conductor("Li6PS5Cl"))
    archive(tmp_path, {"aaa": good, "bbb": "data_x\n_cell_length_a 3\n", "ddd": good.replace("Li", "Na"), "zzz": good})
    found = site_inputs(entries, cif_texts(tmp_path), shipped_motion())
    assert np.isfinite(found).all(axis=1).tolist() == [True, False, False, False, False, False]


def test_the_training_command_reads_the_cifs_beside_the_table(tmp_path, capsys):
    hosts = ["Na", "Mg", "Al", "Si", "K", "Ca", "Sc", "Ti", "V", "Cr", "Mn"]
    rows = [
        f"r{k},Li{3 + k // 11}.0{hosts[k % 11]}1.0S4.0,{10 ** (-3 - k / 50)},62,12,8,6,90,90,90,10.1/{k % 11}/{k // 33},,"
        for k in range(121)
    ]
    words = ["train", "transport", "--data", str(written(tmp_path, rows)), "--trees", "3", "--folds", "3", "--out"]
    assert cli.run([*words, str(tmp_path / "without")]) == 0
    told = capsys.readouterr()
    assert f"no {CIFS} beside all.csv" in told.err and "No correction" in told.out
    assert load_transport(tmp_path / "without" / "transport.mdistill").correction is None
    kinds = [cif(conductor(name)) for name in ("Li6PS5Cl", "Li10GeP2S12", "Li3YCl6")]
    archive(tmp_path, {f"r{k}": kinds[k % 3] for k in range(121)})
    assert cli.run([*words, str(tmp_path / "with")]) == 0
    made = load_transport(tmp_path / "with" / "transport.mdistill").correction
    assert 80 <= made.entries <= 121 and made.motion == shipped_motion_sha256()
    assert f"{made.entries} entries" in capsys.readouterr().out


def test_the_file_keeps_the_correction(learned, tmp_path):
    save_transport(tmp_path / "m.mdistill", learned, {})
    again, (entries, inputs) = load_transport(tmp_path / "m.mdistill"), planted(1.0)
    assert said(again, entries, inputs) == said(learned, entries, inputs)
    assert dataclasses.replace(again.correction, ridge=None) == dataclasses.replace(learned.correction, ridge=None)


def test_a_file_without_a_correction_loads(learned, tmp_path):
    """The header of files that were written before there was one."""
    digest = save_transport(tmp_path / "old.mdistill", dataclasses.replace(learned, correction=None), {})
    old = load_transport(tmp_path / "old.mdistill")
    assert "correction" not in old.header["settings"] and old.correction is None and old.header["sha256"] == digest
    entries, inputs = planted(1.0)
    assert said(old, entries, inputs) == said(learned, entries, None)


@pytest.mark.parametrize("part", ["weights", "deviation", "names"])
def test_a_damaged_correction_is_refused(part, learned, tmp_path, monkeypatch):
    ridge = learned.correction.ridge
    if part == "names":
        monkeypatch.setattr("mdistill.transport.model.INPUTS", ("other",))
    else:
        bad = np.full(len(INPUTS), np.nan if part == "weights" else 0.0)
        learned = dataclasses.replace(
            learned, correction=dataclasses.replace(learned.correction, ridge=dataclasses.replace(ridge, **{part: bad}))
        )
    save_transport(tmp_path / "m.mdistill", learned, {})
    monkeypatch.undo()
    with pytest.raises(BadInput, match="correction"):
        load_transport(tmp_path / "m.mdistill")


def test_another_model_of_motion_is_told_and_its_correction_is_not_used(tmp_path):
    write(tmp_path / "a.cif", unmeasured())
    model = shipped_model()
    made = {"other": dataclasses.replace(model.correction, motion="f" * 64), "none": None}
    for name, correction in made.items():
        save_transport(tmp_path / f"{name}.mdistill", dataclasses.replace(model, correction=correction), {})
    with pytest.warns(MdistillNotice, match="another model of motion"):
        other = screen([tmp_path], model=tmp_path / "other.mdistill")
    none = screen([tmp_path], model=tmp_path / "none.mdistill")
    assert rows_of(other) == rows_of(none) and rows_of(other)["a.cif"]["basis"] == "symmetry"


def test_what_was_read_for_another_model_is_read_again(tmp_path):
    """A kept file without inputs of the correction does not silently leave it out."""
    write(tmp_path / "a.cif", unmeasured())
    save_transport(tmp_path / "none.mdistill", dataclasses.replace(shipped_model(), correction=None), {})
    kept = tmp_path / "read.jsonl"
    screen([tmp_path], model=tmp_path / "none.mdistill", kept=kept)
    assert rows_of(screen([tmp_path], kept=kept))["a.cif"]["basis"] == "corrected"
    assert len(kept.read_text().splitlines()) == 2
    assert json.loads(kept.read_text().splitlines()[0])["found"][0]["sites"] is None


def test_the_shipped_correction_fits_the_shipped_model_of_motion():
    made = shipped_model().correction
    assert made.motion == shipped_motion_sha256(), "train the model for 300 K again after that of motion"
    assert made.groups > 90 and made.error < made.without and not shipped_motion().predictor.nets


def test_the_card_tells_of_the_correction(capsys):
    assert cli.run(["info", "transport"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "held-out entries with a CIF" in said and "allowing for 6 variants" in said and shipped_motion_sha256()[:16] in said

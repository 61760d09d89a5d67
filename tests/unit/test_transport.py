"""The predictor of conductivities at 300 K: data without leaks, features without a frame, trees as scikit-learn's, intervals."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import safetensors.numpy
from ase.build import make_supercell
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from conductors import cif, conductor
from mdistill import cli
from mdistill.crystals.task_checks import check_conductor
from mdistill.errors import BadInput
from mdistill.io.structures import from_atoms, read_structure
from mdistill.transport.features import STRUCTURE_COLUMNS, Material, element_properties, features, material_of
from mdistill.transport.fit import (
    Labels,
    conformal_factors,
    fit_forest,
    fold_numbers,
    held_out_values,
    repeat_scatter,
    summary,
)
from mdistill.transport.forest import check_forest, tree_values
from mdistill.transport.model import SHIPPED, load_transport, save_transport, shipped_model
from mdistill.transport.obelix import Entry, composition_of, group_entries, near_repeats, obelix_folder, read_obelix
from mdistill.transport.predict import predict
from mdistill.transport.settings import FLOOR, SPREAD, TransportSettings
from mdistill.transport.train import train_transport

needs_data = pytest.mark.skipif(not os.environ.get("MDISTILL_DATA"), reason="MDISTILL_DATA is not set")
HEAD = "ID,True Composition,Ionic conductivity (S cm-1),Space group #,a,b,c,alpha,beta,gamma,DOI,Family,Cif ID\n"
ROWS = [
    "aaa,Li6.0P1.0S5.0Cl1.0,1e-3,216,9.86,9.86,9.86,90,90,90,10.1/one,argyrodites,done",
    "bbb,Li24.0P4.0S20.0Cl4.0,2e-3,216,9.85,9.85,9.85,90,90,90,10.1/two,argyrodites,",
    "ccc,Li3.0P1.0S4.0,<1E-10,62,12.8,8.2,6.1,90,90,90,10.1/two,,",
    "ddd,Li2.0O1.0,1e-13,225,4.6,4.6,4.6,90,90,90,10.1/THREE,oxides,done",
    "eee,Li7.0La3.0Zr2.0O12.0,5e-9,230,12.9,12.9,12.9,90,90,90,10.1/three,garnet,",
    "fff,Li1.0Cl1.0,<1E-8,225,5.1,5.1,5.1,90,90,90,,halides,",
]


def written(folder, rows=ROWS, head=HEAD):
    (folder / "all.csv").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    (folder / "test.csv").write_text(head + ROWS[2] + "\n", encoding="utf-8")
    return folder


def synthetic(count=240, seed=0, per_group=3):
    """Entries whose conductivity depends on the ratio of S to O, on chance of its group, and on chance."""
    rng, entries = np.random.default_rng(seed), []
    for group in range(count // per_group):
        own = 0.5 * rng.normal()
        for member in range(per_group):
            x, y = rng.uniform(0.1, 4.0), rng.uniform(0.0, 3.0)
            entries.append(
                Entry(
                    name=f"{group}.{member}",
                    composition={3: 3.0 + y, 8: x, 15: 1.0, 16: 4.1 - x},
                    cell=(8.0, 8.0, 8.0, 90.0, 90.0, 90.0),
                    space_group=216,
                    conductivity=10 ** (-3.0 - x + own + 0.3 * rng.normal()),
                    limit=False,
                    source=f"10.1/{group}",
                )
            )
    return entries


@pytest.fixture(scope="module")
def small():
    """A model of few trees on synthetic entries."""
    return train_transport(synthetic(), TransportSettings(trees=12, folds=4))


# ---- data


def test_filters_of_the_table_are_exact(tmp_path):
    entries = {one.name: one for one in read_obelix(written(tmp_path))}
    assert [one.limit for one in entries.values()] == [False, False, True, False, False, True]
    assert entries["ccc"].target == FLOOR and entries["ddd"].target == FLOOR and entries["aaa"].target == pytest.approx(-3)
    assert [name for name, one in entries.items() if one.below_detection] == ["ccc", "ddd", "eee", "fff"]
    assert (
        [name for name, one in entries.items() if one.test] == ["ccc"] and entries["aaa"].has_cif and not entries["bbb"].has_cif
    )
    assert entries["bbb"].composition == {3: 24.0, 15: 4.0, 16: 20.0, 17: 4.0}


@needs_data
def test_obelix_has_the_published_numbers():
    entries = read_obelix()
    assert len(entries) == 599 and sum(one.test for one in entries) == 121 and sum(one.limit for one in entries) == 37
    assert sum(one.has_cif for one in entries) == 321 and len(set(group_entries(entries).tolist())) == 158


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("xxx,Li1.0Xx1.0,1e-3,216,9,9,9,90,90,90,,,", "True Composition = 'Li1.0Xx1.0'"),
        ("xxx,Li1.0Cl1.0,fast,216,9,9,9,90,90,90,,,", "S cm-1\\) = 'fast'"),
        ("xxx,Li1.0Cl1.0,nan,216,9,9,9,90,90,90,,,", "'nan'"),
        ("xxx,Li1.0Cl1.0,1e-3,231,9,9,9,90,90,90,,,", "space group 231"),
        ("xxx,Li1.0Cl1.0,1e-3,216,,9,9,90,90,90,,,", "has a = ''"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(row, problem, tmp_path):
    with pytest.raises(BadInput, match=problem):
        read_obelix(written(tmp_path, [*ROWS, row]))


def test_absent_tables_and_columns_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MDISTILL_DATA", raising=False)
    with pytest.raises(BadInput, match=r"no all\.csv in it"):
        read_obelix(tmp_path)
    with pytest.raises(BadInput, match="MDISTILL_DATA"):
        read_obelix()
    with pytest.raises(BadInput, match="no column 'alpha'"):
        read_obelix(written(tmp_path, head=HEAD.replace("alpha", "alfa")))
    with pytest.raises(BadInput, match="no rows"):
        read_obelix(written(tmp_path, rows=[]))
    with pytest.raises(BadInput, match="6 entries in 3 groups"):
        train_transport(read_obelix(written(tmp_path)), TransportSettings())
    assert obelix_folder(tmp_path.parent) is None and obelix_folder(tmp_path) == tmp_path
    assert composition_of("Li3(PO4)") == {} and composition_of("Li2O0.0S1.0") == {3: 2.0, 16: 1.0}


def test_equal_compositions_and_papers_share_a_group(tmp_path):
    a, b, c, d, e, f = group_entries(read_obelix(written(tmp_path))).tolist()
    assert a == b == c and d == e and len({a, d, f}) == 3


def test_a_planted_leak_is_found():
    """The same measurement under a corrected formula and another doi: another group, but a near repeat."""
    entries = synthetic()
    first = entries[0]
    moved = {**first.composition, 3: first.composition[3] * 1.02}
    leak = dataclasses.replace(first, name="leak", composition=moved, source="10.9/other")
    groups, pairs = group_entries([*entries, leak]), near_repeats([*entries, leak])
    assert groups[-1] != groups[0] and pairs[0, -1] and pairs[-1, 0]
    joined = group_entries([*entries, leak], join_repeats=True)
    assert joined[-1] == joined[0]


def test_no_group_is_in_two_folds_and_folds_are_alike():
    groups = np.repeat(np.arange(60), np.tile([1, 2, 9], 20))
    folds = fold_numbers(groups, 5, seed=1)
    assert all(len(set(folds[groups == group])) == 1 for group in range(60))
    assert np.bincount(folds).min() > 0.7 * len(groups) / 5
    assert (folds != fold_numbers(groups, 5, seed=2)).any()


def test_a_leak_between_groups_makes_errors_too_small():
    """Copies of the held-out entries in other groups: cross-validation by group would not see the chance of a group."""
    entries = synthetic(120)
    copies = [dataclasses.replace(one, name=f"{one.name} copy", source=f"10.5/{k}") for k, one in enumerate(entries)]
    settings, errors = TransportSettings(trees=12, folds=4), []
    for chosen in (entries, [*entries, *copies]):
        x = np.array([[one.composition[8], one.composition[16]] for one in chosen], dtype=np.float32)
        target = np.array([one.target for one in chosen])
        for group in (group_entries(chosen), np.arange(len(chosen))):
            labels = Labels(target=target, below=target < -8, group=group)
            errors.append(np.abs(held_out_values(x, labels, settings, seed=0)[:, 0] - target).mean())
    honest, _, grouped_copies, leaked = errors
    assert leaked < 0.5 * honest and grouped_copies > 0.7 * honest


# ---- features


def row_of(material):
    return features([material], (3, 8, 15, 16, 17), element_properties(), mobile=3)[0]


@pytest.mark.parametrize("name", ["Li6PS5Cl", "Li10GeP2S12", "Li7La3Zr2O12, tetragonal"])
def test_rotation_translation_and_order_of_sites_change_nothing(name, tmp_path):
    (tmp_path / "one.cif").write_text(cif(conductor(name)))
    crystal = read_structure(tmp_path / "one.cif")
    rng = np.random.default_rng(3)
    sites = [
        dataclasses.replace(site, fractional=tuple((np.array(site.fractional) + np.array([0.21, 0.37, 0.83])) % 1.0))
        for site in rng.permutation(np.array(crystal.sites, dtype=object))
    ]
    moved = dataclasses.replace(crystal, cell=crystal.cell @ Rotation.random(random_state=1).as_matrix().T, sites=tuple(sites))
    first, second = row_of(material_of(crystal)), row_of(material_of(moved))
    np.testing.assert_allclose(second, first, rtol=1e-5, atol=1e-5)
    assert first[2 - STRUCTURE_COLUMNS] > 15
    one, other = predict(shipped_model(), [material_of(crystal), material_of(moved)])
    assert other.value == pytest.approx(one.value, abs=1e-5)


@pytest.mark.parametrize("matrix", [np.diag([2, 1, 3]), [[1, 1, 0], [0, 1, 0], [1, 0, 2]]])
def test_a_supercell_changes_nothing(matrix, tmp_path):
    from ase.spacegroup import crystal as ase_crystal

    atoms = ase_crystal(
        ["Li", "O", "Cl"], [(0.5, 0, 0), (0.5, 0.5, 0.5), (0, 0, 0)], spacegroup=221, cellpar=[3.9, 3.9, 3.9, 90, 90, 90]
    )
    one, other = (material_of(from_atoms(a)) for a in (atoms, make_supercell(atoms, matrix)))
    assert one.space_group == other.space_group == 221
    np.testing.assert_allclose(row_of(other), row_of(one), rtol=1e-5, atol=1e-5)


def test_features_follow_their_formula():
    material = Material(composition={3: 2.0, 16: 1.0}, volume=30.0, lengths=(3.0, 4.0, 6.0), space_group=62)
    row, properties = row_of(material), element_properties()
    x = np.array([2 / 3, 1 / 3])
    mean = x @ properties[[3, 16]]
    np.testing.assert_allclose(row[:5], [2 / 3, 0, 0, 1 / 3, 0], atol=1e-5)
    np.testing.assert_allclose(row[5:14], mean, rtol=1e-5)
    np.testing.assert_allclose(row[14:23], x @ abs(properties[[3, 16]] - mean), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(row[41:50], properties[16], rtol=1e-5)
    np.testing.assert_allclose(row[-9:], [10.0, 2 / 30, 62, 2, 2.0, 4 / 3, 3, 4, 6], rtol=1e-4)
    assert properties[16, 0] == pytest.approx(2.58)


def test_an_ordering_of_a_disordered_crystal_loses_its_low_symmetry_only():
    known = [Material(composition={3: 1.0}, volume=20.0, space_group=n, ordered=o).symmetry_known for n, o in
             [(1, True), (15, True), (16, True), (1, False), (0, False)]]  # fmt: skip
    assert known == [False, False, True, True, False]


# ---- trees


@given(seed=st.integers(0, 2**31), trees=st.integers(1, 4), count=st.integers(2, 60))
@examples(max_examples=25, deadline=None)
def test_trees_in_numpy_equal_scikit_learn(seed, trees, count):
    ensemble = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(seed)
    x = np.round(rng.normal(size=(count, 5)), rng.integers(0, 6)).astype(np.float32)
    y = rng.normal(size=count)
    labels = Labels(target=y, below=y < 0, group=np.arange(count))
    forest = fit_forest(x, labels, TransportSettings(trees=trees, share=0.6), seed=seed % 1000)
    same = ensemble.ExtraTreesRegressor(n_estimators=trees, max_features=0.6, random_state=seed % 1000).fit(x, y)
    asked = np.concatenate(
        [x, np.round(rng.normal(size=(50, 5)), 2).astype(np.float32), forest.threshold[:40, None].repeat(5, 1)]
    )
    np.testing.assert_allclose(tree_values(forest, asked)[..., 0].mean(axis=1), same.predict(asked), rtol=0, atol=1e-12)
    check_forest(forest, 5, "here")
    below = tree_values(forest, x)[..., 1].mean(axis=1)
    assert ((below >= 0) & (below <= 1)).all()


def test_equal_targets_make_trees_without_nodes():
    labels = Labels(target=np.full(6, -3.0), below=np.zeros(6, dtype=bool), group=np.arange(6))
    forest = fit_forest(np.arange(12, dtype=np.float32).reshape(6, 2), labels, TransportSettings(trees=3), seed=0)
    assert summary(tree_values(forest, np.zeros((4, 2)))).tolist() == [[-3.0, 0.0, 0.0]] * 4


@pytest.mark.parametrize("part", ["left", "feature", "starts", "values"])
def test_damaged_trees_are_refused_before_a_walk(part, small):
    forest = small.bases["symmetry"].forest
    array = getattr(forest, part).copy()
    array[len(array) // 2] = {"left": 0, "feature": 250, "starts": -4, "values": np.nan}[part]
    with pytest.raises(BadInput, match="damaged"):
        check_forest(dataclasses.replace(forest, **{part: array}), 60, "file")


# ---- intervals


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Trained on some groups, tested on groups that training does not know; three draws of 80 groups."""
    inside = {0: [], 1: []}
    for seed in range(3):
        entries, other = synthetic(240, seed=seed), synthetic(240, seed=100 + seed)
        model = train_transport(entries, TransportSettings(trees=16, folds=5))
        materials = [Material(composition=one.composition, volume=512.0, lengths=(8, 8, 8), space_group=216) for one in other]
        for one, found in zip(other, predict(model, materials), strict=True):
            for k, (low, high) in enumerate((found.interval_68, found.interval_95)):
                inside[k].append(low <= one.target <= high)
    assert 0.62 <= np.mean(inside[0]) <= 0.80 and 0.92 <= np.mean(inside[1]) <= 0.99


def test_large_groups_do_not_set_the_intervals_alone():
    """One group of 300 good entries beside 60 groups of one: entries of equal weight would give half the width."""
    rng = np.random.default_rng(0)
    error = np.concatenate([0.1 * rng.normal(size=300), rng.normal(size=60)])
    groups = np.concatenate([np.zeros(300, dtype=int), np.arange(1, 61)])
    low, high = conformal_factors(error, np.full(360, 1.0 - SPREAD), groups)
    assert 0.7 < low < 1.4 and 1.5 < high < 3.0
    assert np.quantile(np.abs(error), 0.68) < 0.3


def test_intervals_are_no_narrower_than_repeated_measurements():
    entries = synthetic(60)
    again = [dataclasses.replace(one, source=f"10.7/{k}", conductivity=one.conductivity * 10) for k, one in enumerate(entries)]
    assert repeat_scatter([*entries, *again]) == pytest.approx((1.0, 1.0))
    model = train_transport([*entries, *again], TransportSettings(trees=4, folds=3))
    found = predict(model, [Material(composition=entries[0].composition, volume=512.0, lengths=(8, 8, 8), space_group=216)])[0]
    assert found.interval_68[1] - found.value >= 1.0 - 1e-9


def test_insulators_are_below_detection():
    phosphate = Material(composition={3: 8.0, 15: 4.0, 8: 14.0}, volume=280.0, lengths=(5.2, 7.1, 8.56), space_group=2)
    argyrodite = Material(
        composition={3: 24.0, 15: 4.0, 16: 20.0, 17: 4.0}, volume=960.0, lengths=(9.86, 9.86, 9.86), space_group=216
    )
    low, high = predict(shipped_model(), [phosphate, argyrodite])
    assert low.value < -6 and -4.5 < high.value < -1 and low.below_detection > 0.3 and high.below_detection < 0.05


# ---- when not to trust it


def test_unknown_elements_and_far_compositions_are_flagged():
    known = Material(composition={3: 24.0, 15: 4.0, 16: 20.0, 17: 4.0}, volume=960.0, lengths=(9.86, 9.86, 9.86), space_group=216)
    strange = dataclasses.replace(known, composition={3: 24.0, 94: 4.0, 16: 20.0, 17: 4.0})
    far = dataclasses.replace(known, composition={3: 1.0, 6: 20.0})
    fine, unseen, distant = predict(shipped_model(), [known, strange, far])
    assert fine.doubts == () and fine.distance < 1e-6 and fine.nearest == "Li6PS5Cl"
    assert "Pu not in the training set" in unseen.doubts[0] and "far from the training set" in distant.doubts[0]
    assert distant.distance > 0.5


def test_what_is_no_conductor_is_refused():
    from ase import Atoms
    from ase.build import bulk, molecule

    with pytest.raises(BadInput, match="no mobile ion Li in NaCl"):
        check_conductor(from_atoms(bulk("NaCl", "rocksalt", a=5.6)), 3)
    with pytest.raises(BadInput, match="Li alone"):
        check_conductor(from_atoms(bulk("Li", cubic=True)), 3)
    with pytest.raises(BadInput, match="periodic only"):
        check_conductor(from_atoms(molecule("LiF")), 3)
    with pytest.raises(BadInput, match="of vacuum"):
        check_conductor(from_atoms(Atoms("LiF", positions=[[0, 0, 0], [1.6, 0, 0]], cell=[20, 20, 20], pbc=True)), 3)
    with pytest.raises(BadInput, match="no mobile ion"):
        features([Material(composition={11: 1.0}, volume=20.0)], (3, 11), element_properties(), mobile=3)


# ---- the file


def test_the_file_gives_the_same_model_and_notices_damage(small, tmp_path):
    path = tmp_path / "transport.mdistill"
    save_transport(path, small, {"data": "synthetic"})
    again = load_transport(path)
    material = Material(composition={3: 5.0, 8: 1.0, 15: 1.0, 16: 3.0}, volume=500.0, lengths=(8, 8, 8), space_group=216)
    assert predict(again, [material])[0].value == predict(small, [material])[0].value
    assert again.header["provenance"]["data"] == "synthetic" and b"pickle" not in path.read_bytes()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BadInput, match="sha256"):
        load_transport(path)


def test_models_of_other_kinds_are_refused_both_ways(tmp_path):
    from mdistill import load
    from mdistill.nets.model_files import save_model
    from systems import tiny_net

    save_model(tmp_path / "student.mdistill", tiny_net())
    with pytest.raises(BadInput, match="a model of kind 'moment'"):
        load_transport(tmp_path / "student.mdistill")
    with pytest.raises(BadInput, match="a model of kind 'transport'"):
        load(str(SHIPPED))


def test_the_shipped_model_is_small_and_says_what_it_is(capsys):
    assert SHIPPED.stat().st_size < 1_000_000
    assert all(array.dtype.kind in "fiu" for array in safetensors.numpy.load_file(SHIPPED).values())
    assert cli.run(["info", "transport"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(words in said for words in ("CC BY 4.0", "OBELiX", "599 entries in 158 groups", "not MD", "decades", "2502.14234"))


@needs_data
@pytest.mark.slow
def test_the_training_command_makes_the_shipped_model(tmp_path, capsys):
    assert cli.run(["train", "transport", "--out", str(tmp_path)]) == 0
    made, shipped = load_transport(tmp_path / "transport.mdistill"), shipped_model()
    for name, basis in shipped.bases.items():
        assert made.bases[name].error == pytest.approx(basis.error, abs=0.02)
    assert made.header["provenance"]["data_sha256"] == shipped.header["provenance"]["data_sha256"]
    one, other = made.correction, shipped.correction
    assert (one.entries, one.groups, one.motion) == (other.entries, other.groups, other.motion)
    np.testing.assert_allclose(one.ridge.weights, other.ridge.weights, atol=0.03)
    assert one.error == pytest.approx(other.error, abs=0.03) and one.gain[0] == pytest.approx(other.gain[0], abs=0.03)
    assert "Grouped cross-validation" in capsys.readouterr().out


def test_the_training_command_on_a_small_table(tmp_path, capsys):
    rows = [f"r{k},Li{3 + k / 10}P1.0S4.0,{10 ** (-3 - k / 10)},62,12,8,6,90,90,90,10.1/{k},," for k in range(24)]
    words = [
        "train",
        "transport",
        "--data",
        str(written(tmp_path, rows)),
        "--out",
        str(tmp_path / "out"),
        "--trees",
        "3",
        "--folds",
        "3",
    ]
    assert cli.run(words) == 0
    assert "with density, lattice and space group" in capsys.readouterr().out
    assert load_transport(tmp_path / "out" / "transport.mdistill").bases["composition"].forest.trees == 3
    assert cli.run(["train", "transport", "--data", str(tmp_path / "out"), "--out", str(tmp_path / "no")]) == 2


def test_atoms_of_the_reader_reach_the_features(tmp_path):
    (tmp_path / "one.cif").write_text(cif(conductor("Li6PS5Cl")))
    material = material_of(read_structure(tmp_path / "one.cif"))
    assert material.space_group == 216 and not material.ordered and material.composition[3] == pytest.approx(24.0, abs=0.1)

"""Teachers with weights of their own: fetched from a local address, loaded through stand-ins of their packages, told when absent."""

from __future__ import annotations

import hashlib
import sys
import types
from importlib import metadata
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

import mdistill
from mdistill import cli
from mdistill.derivatives import Conservative
from mdistill.errors import BadInput, MdistillError, MdistillNotice, MissingPackage
from mdistill.graph import build_graph
from mdistill.io.convert_structures import as_system
from mdistill.runs.identity import model_id
from mdistill.teachers import MODULES, check_teacher, load_teacher, weights
from mdistill.teachers.cards import TEACHERS, card_of, find_teacher
from mdistill.teachers.devices import resolve_device
from mdistill.teachers.weights import conflicts, fetch, find_weights, places
from systems import random_box, tiny_net

CONTENT = b"weights of a stand-in"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FETCHED = [card for card in TEACHERS.values() if card.weights is not None]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MDISTILL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def address(tmp_path):
    (tmp_path / "there.bin").write_bytes(CONTENT)
    return (tmp_path / "there.bin").as_uri()


def placed(name: str) -> Path:
    """The file of a teacher's weights, in the folder where it is looked for first."""
    path = places(find_teacher(name))[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    return path


def test_every_card_names_package_licence_and_an_address_of_its_file():
    assert len(FETCHED) == 14 and {card.package for card in TEACHERS.values()} == MODULES.keys()
    for card in FETCHED:
        assert card.weights.address.startswith("https://") and card.weights.address.endswith(card.weights.file)
        assert card.weights.licence and len(card.weights.sha256) in (0, 64)
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert all(f"\n{card.extra} = [" in text for card in TEACHERS.values())
    assert find_teacher("7NET-OMAT").name == "sevennet-omat" and find_teacher("mattersim-5m").name == "mattersim-v1.0.0-5m"
    assert card_of("7NET-OMAT") is TEACHERS["sevennet-omat"] and card_of("xtb@charge=1") is TEACHERS["gfn2-xtb"]


def test_download_fetches_checks_and_is_not_repeated(address, tmp_path, capsys):
    assert cli.run(["download", "mace-mpa-0", "--address", address]) == 0
    said, path = capsys.readouterr().out, tmp_path / "weights" / "mace-mpa-0-medium.model"
    assert str(path) in said and DIGEST in said and "MIT" in said
    assert path.read_bytes() == CONTENT and find_weights(find_teacher("mace-mpa-0")) == path
    (tmp_path / "there.bin").unlink()
    assert cli.run(["download", "mace-mpa-0", "--address", address]) == 0, "it is here already"
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(BadInput, match="its sha256 is"):
        find_weights(find_teacher("mace-mpa-0"))


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["sevennet-0"], 2, "come with its package"),
        (["mace-mpa-00"], 2, "did you mean 'mace-mpa-0'"),
        (["mace-mpa-0", "--address", "http://example.org/x"], 2, "https://… or file://…"),
        (["mace-mpa-0", "--address", "/etc/hostname"], 2, "https://… or file://…"),
        (["mace-mpa-0", "--address", "file:///absent/file"], 1, "could not be fetched"),
    ],
)
def test_what_cannot_be_fetched_is_refused_and_leaves_nothing(words, status, said, tmp_path, capsys):
    assert cli.run(["download", *words]) == status
    assert said in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_with_another_sha256_is_refused(address, tmp_path):
    for card, digest in ((find_teacher("orb-v3-conservative-inf-omat"), ""), (find_teacher("mace-mpa-0"), "0" * 64)):
        with pytest.raises(BadInput, match=f"the file has sha256 {DIGEST}"):
            fetch(card, tmp_path / "weights", address=address, digest=digest)
    assert not list((tmp_path / "weights").glob("*"))
    assert fetch(find_teacher("mace-mpa-0"), tmp_path / "weights", address=address, digest=DIGEST).is_file()


def test_the_list_has_address_licence_and_sha256(capsys):
    assert cli.run(["download"]) == 0
    said = capsys.readouterr().out
    assert all(card.weights.address in said and card.name in said for card in FETCHED)
    assert "not checked when fetched" in " ".join(said.split())
    assert "0a41ef1132ad9c41" in said and "ASL (academic use only)" in said


class Stand(EMT):
    """A calculator that remembers how it was made."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__()
        self.made = (arguments, options)


def stand_in(monkeypatch, name: str, **contents: object) -> None:
    """A module of this name, with its parents."""
    parts = name.split(".")
    for k in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:k]))
        module.__path__ = []
        monkeypatch.setitem(sys.modules, module.__name__, sys.modules.get(module.__name__, module))
    for key, value in contents.items():
        monkeypatch.setattr(sys.modules[name], key, value, raising=False)


def orb(*, recent: bool):
    pretrained = types.SimpleNamespace()
    pretrained.orb_v3_conservative_inf_mpa = lambda **options: ("model", options) if recent else options
    return pretrained


@pytest.mark.parametrize(
    ("name", "modules", "options"),
    [
        ("mace-mpa-0", {"mace.calculators": "MACECalculator"}, {"default_dtype": "float64", "device": "cpu"}),
        ("mattersim-5m", {"mattersim.forcefield": "MatterSimCalculator"}, {"device": "cpu"}),
        ("pet-mad-s", {"upet.ase": "UPETCalculator"}, {"device": "cpu"}),
        ("pet-mad-s", {"upet.calculator": "UPETCalculator"}, {"device": "cpu"}),
        ("orb-v3-conservative-inf-mpa", {"orb_models.forcefield.calculator": "ORBCalculator"}, {"device": "cpu"}),
        ("orb-v3-conservative-inf-mpa", {"orb_models.forcefield.inference.calculator": "ORBCalculator"}, {"device": "cpu"}),
        ("sevennet-mf-ompa", {"sevenn.calculator": "SevenNetCalculator"}, {"modal": "mpa"}),
        ("sevennet-mf-ompa-omat24", {"sevenn.calculator": "SevenNetCalculator"}, {"modal": "omat24"}),
        ("sevennet-omat", {"sevenn.calculator": "SevenNetCalculator"}, {"modal": None}),
    ],
)
def test_teachers_are_loaded_from_package_and_weights(name, modules, options, monkeypatch):
    monkeypatch.setattr(weights.metadata, "version", lambda _: "0.4.4" if name.startswith("mace") else "0.6.0")
    for module, attribute in modules.items():
        stand_in(monkeypatch, module, **{attribute: Stand})
        if module.startswith("orb_models"):
            stand_in(monkeypatch, "orb_models.forcefield", pretrained=orb(recent="inference" in module))
    path = placed(name)
    teacher = load_teacher(name)
    arguments, made = teacher.calculator.made
    assert {key: made[key] for key in options} == options
    assert str(path) in str((arguments, made)), "the local file, no name that the package would fetch"
    assert teacher.name == find_teacher(name).name and model_id(teacher) == DIGEST
    copper = as_system(bulk("Cu", cubic=True))
    answer = teacher(build_graph(copper, teacher.cutoff))
    assert answer.forces.shape == (4, 3) and check_teacher(teacher, name, system=copper) == {}


@pytest.mark.parametrize("name", ["mace-mpa-0", "orb-v3-conservative-inf-mpa", "mattersim-1m", "pet-mad-s"])
def test_a_missing_package_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr("mdistill.teachers.find_spec", lambda _: None)
    card = find_teacher(name)
    with pytest.raises(MissingPackage) as caught:
        mdistill.load(name)
    assert card.package in str(caught.value) and card.pip_line in str(caught.value) and caught.value.exit_status == 2
    assert card.pip_line == f'pip install "mdistill[{card.extra}]"'


def test_missing_weights_say_where_they_were_looked_for(tmp_path, monkeypatch):
    stand_in(monkeypatch, "mattersim.forcefield", MatterSimCalculator=Stand)
    with pytest.raises(BadInput) as caught:
        load_teacher("mattersim-5m")
    assert caught.value.fix == "mdistill download mattersim-v1.0.0-5m"
    assert str(tmp_path / "weights") in caught.value.allowed and ".local/mattersim" in caught.value.allowed
    kept = tmp_path / "home" / ".local" / "mattersim" / "pretrained_models" / "mattersim-v1.0.0-5M.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(CONTENT)
    assert find_weights(find_teacher("mattersim-5m")) == kept, "where the package itself keeps them"


def test_a_conflict_of_packages_is_told(monkeypatch):
    installed = {"e3nn": "0.6.0"}
    monkeypatch.setattr(weights.metadata, "version", lambda name: installed[name])
    assert conflicts(find_teacher("mace-mpa-0")) == ["e3nn 0.6.0 is installed, mace-torch is made for e3nn ==0.4.4"]
    assert conflicts(find_teacher("sevennet-0")) == []
    stand_in(monkeypatch, "mace.calculators", MACECalculator=Stand)
    placed("mace-mpa-0")
    with pytest.warns(MdistillNotice, match=r"made for e3nn ==0\.4\.4.*an environment of its own"):
        assert load_teacher("mace-mpa-0").name == "mace-mpa-0"

    def broken(**_: object) -> None:
        raise AttributeError("no __codegen__")

    stand_in(monkeypatch, "mace.calculators", MACECalculator=broken)
    with (
        pytest.warns(MdistillNotice),
        pytest.raises(MdistillError, match=r"could not be loaded .*no __codegen__(.|\n)*labels made there"),
    ):
        load_teacher("mace-mpa-0")
    installed["e3nn"] = "0.4.4"
    assert conflicts(find_teacher("sevennet-0")) == ["e3nn 0.4.4 is installed, sevenn is made for e3nn >=0.5.0"]


def test_doctor_says_what_each_teacher_lacks_and_where_weights_are_looked_for(monkeypatch, tmp_path):
    from mdistill.commands import doctor

    versions = {"mace-torch": "0.3.14", "e3nn": "0.6.0", "mattersim": "1.2.3", "sevenn": "0.13.0", "upet": "0.3.1"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor, "version", versions.get)
    monkeypatch.setattr(weights.metadata, "version", version)
    placed("mace-mpa-0")
    placed("mattersim-5m")
    rows = {row[0]: row[1:] for row in map(doctor.teacher_row, TEACHERS.values())}
    assert rows["mace-mpa-0"] == ["conflict", "e3nn 0.6.0 is installed, mace-torch is made for e3nn ==0.4.4"]
    assert rows["mattersim-v1.0.0-5m"] == ["ready", ""] and rows["sevennet-0"] == ["ready", ""]
    assert rows["pet-mad-s"] == ["weights missing", "mdistill download pet-mad-s"]
    assert rows["orb-v3-conservative-inf-mpa"] == ["package missing", 'pip install "mdistill[orb]"']
    assert rows["chgnet"][0] == "package missing"
    (places(find_teacher("mattersim-5m"))[0].with_name("mattersim-v1.0.0-5M.pth.sha256")).write_text("0" * 64)
    assert doctor.teacher_row(find_teacher("mattersim-5m"))[1] == "weights damaged"


@pytest.mark.parametrize(
    ("device", "cards", "expected"),
    [("cpu", 0, "cpu"), ("auto", 0, "cpu"), ("auto", 1, "cuda"), ("cuda", 1, "cuda"), ("cuda:1", 2, "cuda:1")],
)
def test_devices(device, cards, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cards > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    assert resolve_device(device) == expected


@pytest.mark.parametrize(
    ("device", "cards", "said"),
    [
        ("cuda", 0, "finds no CUDA device"),
        ("cuda:2", 2, "cuda:0 to cuda:1"),
        ("gpu", 1, "cpu, cuda, cuda:N or auto"),
        ("", 0, "auto"),
    ],
)
def test_devices_that_are_not_there_are_bad_input(device, cards, said, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cards > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: cards)
    with pytest.raises(BadInput, match=said):
        resolve_device(device)


def test_cuda_without_cuda_ends_with_status_2_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    bulk("Cu", cubic=True).write("copper.extxyz")
    student = Path(__file__).parents[1] / "golden" / "student_format_2.mdistill"
    for words in (
        ["simulate", "copper.extxyz", "--potential", str(student), "--device", "cuda", "--out", "md"],
        ["label", "copper.extxyz", "--teacher", "sevennet-0", "--device", "cuda", "--out", "labels"],
        ["distill", "copper.extxyz", "--device", "cuda", "--mobile", "none", "--out", "run"],
    ):
        assert cli.run(words) == 2
        assert "finds no CUDA device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["copper.extxyz"]


@pytest.mark.parametrize("command", ["distill", "label"])
def test_help_shows_factories(command, capsys):
    with pytest.raises(SystemExit):
        cli.run([command, "--help"])
    assert "mace.calculators:mace_mp" in capsys.readouterr().out


def test_the_command_says_that_an_unknown_sha256_was_not_checked(address, tmp_path, capsys):
    words = ["download", "mace-mpa-0", "--address", address, "--folder", str(tmp_path / "weights")]
    assert cli.run(words) == 0 and "not checked: none is known" in capsys.readouterr().out


def test_a_model_file_is_a_teacher_without_a_card(tmp_path):
    """A student teaches another, a direct net a conserving one: such teachers have neither a card nor golden answers."""
    path = str(tmp_path / "student.mdistill")
    assert card_of(path) is None and card_of("ase.calculators.emt:EMT") is None
    assert check_teacher(Conservative(tiny_net()), path, system=random_box(0, atoms=6)) == {}

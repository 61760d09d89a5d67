"""Teachers by name: what a user should know about each, the package that it needs, and where its weights come from."""

from __future__ import annotations

import difflib
from contextlib import suppress
from dataclasses import dataclass, replace

from mdistill.errors import BadInput

_MACE = "https://github.com/ACEsuit"
_ORB = "https://orbitalmaterials-public-models.s3.us-west-1.amazonaws.com/forcefields/orb-v3"
_MATTERSIM = "https://raw.githubusercontent.com/microsoft/mattersim/main/pretrained_models"
_SEVENNET = "https://github.com/MDIL-SNU/SevenNet/releases/download"
_UPET = "https://huggingface.co/lab-cosmo/upet/resolve/main/models"
_ASL = "ASL (academic use only)"
DISPERSION = "+d3"
"""End of the name of a teacher to which D3 dispersion is added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A file of weights that does not come with a package.

    Attributes:
        file: Its name in the folder of weights.
        address: Its public address.
        licence: Its licence.
        sha256: Of the file; "" where it is not known.
        elsewhere: Where the teacher's own package keeps it ("~" is the home folder).
    """

    file: str
    address: str
    licence: str
    sha256: str = ""
    elsewhere: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """What a user should know about a foundation potential.

    Attributes:
        name: The id its owners use, lower case.
        aliases: Other accepted ids.
        package: The package that holds code (and weights, where `weights` is None).
        extra: mdistill's extra that installs it.
        functional: The level of theory it imitates.
        data: Its training data.
        citation: Key of the reference (`mdistill cite`).
        weights: Its file of weights; None where it comes with the package.
        needs: Versions of other packages that its package is made for: (name, specifier).
        model: Its name in the package: a function or modality; "" where it needs none.
        dispersion: The functional whose D3 dispersion is added to it, as `dftd3` names it; "" for none.
    """

    name: str
    aliases: tuple[str, ...] = ()
    package: str
    extra: str
    functional: str
    data: str
    citation: str
    weights: Weights | None = None
    needs: tuple[tuple[str, str], ...] = ()
    model: str = ""
    dispersion: str = ""

    @property
    def pip_line(self) -> str:
        return f'pip install "mdistill[{self.extra}{",d3" if self.dispersion else ""}]"'

    @property
    def citations(self) -> list[str]:
        """Keys of its references, with that of the dispersion."""
        return [self.citation, *(["d3"] if self.dispersion else [])]

    @property
    def lacks_dispersion(self) -> bool:
        """Whether its level of theory has no dispersion, and none is added."""
        return self.functional.split()[0] in ("PBE", "r2SCAN") and not self.dispersion

    def with_dispersion(self, subject: str) -> Teacher:
        """The card of the same potential with D3 dispersion.

        Raises:
            BadInput: Its level of theory holds dispersion.
        """
        functional = self.functional.split()[0]
        if not self.lacks_dispersion:
            problem, allowed = f"'{self.name}{DISPERSION}': {self.functional} holds dispersion", "teachers of PBE and r2SCAN"
            raise BadInput(subject, problem, allowed=allowed, fix=self.name)
        told = f"{self.functional}, D3(BJ)"
        return replace(self, name=f"{self.name}{DISPERSION}", functional=told, dispersion=functional.lower())


def _sevennet(name: str, *aliases: str, functional: str = "PBE (+U)", data: str = "MPtrj", citation: str = "sevennet",
              weights: Weights | None = None, model: str = "") -> Teacher:  # fmt: skip
    return Teacher(
        name=name, aliases=aliases, package="sevenn", extra="sevennet", functional=functional, data=data, citation=citation,
        weights=weights, needs=(("e3nn", ">=0.5.0"),), model=model,
    )  # fmt: skip


def _sevennet_file(folder: str, file: str, release: str) -> Weights:
    return Weights(
        file=file, address=f"{_SEVENNET}/{release}/{file}", licence="see the release page",
        elsewhere=(f"~/.cache/sevennet/{folder}/{file}",),
    )  # fmt: skip


def _mace(name: str, place: str, *aliases: str, data: str, licence: str = "MIT", functional: str = "PBE (+U)") -> Teacher:
    file = place.rpartition("/")[2]
    cached = "".join(letter for letter in file if letter.isalnum() or letter == "_")
    weights = Weights(file=file, address=f"{_MACE}/{place}", licence=licence, elsewhere=(f"~/.cache/mace/{cached}",))
    return Teacher(
        name=name, aliases=aliases, package="mace-torch", extra="mace", functional=functional, data=data, citation="mace-mp",
        weights=weights, needs=(("e3nn", "==0.4.4"),),
    )  # fmt: skip


def _orb(name: str, *, data: str, sha256: str = "") -> Teacher:
    file = f"{name}-20250404.ckpt"
    return Teacher(
        name=name, package="orb-models", extra="orb", functional="PBE (+U)", data=data, citation="orb-v3",
        weights=Weights(file=file, address=f"{_ORB}/{file}", licence="Apache-2.0", sha256=sha256), model=name.replace("-", "_"),
    )  # fmt: skip


def _mattersim(size: str) -> Teacher:
    file = f"mattersim-v1.0.0-{size}.pth"
    return Teacher(
        name=f"mattersim-v1.0.0-{size.lower()}", aliases=(f"mattersim-{size.lower()}",), package="mattersim", extra="mattersim",
        functional="PBE (+U)", data="17 million structures of its own", citation="mattersim",
        weights=Weights(
            file=file, address=f"{_MATTERSIM}/{file}", licence="MIT", elsewhere=(f"~/.local/mattersim/pretrained_models/{file}",)
        ),
    )  # fmt: skip


def _upet(name: str, version: str, *, functional: str, data: str) -> Teacher:
    file = f"{name}-v{version}.ckpt"
    return Teacher(
        name=name, aliases=(f"{name}-v{version}",), package="upet", extra="upet", functional=functional, data=data,
        citation="pet-mad", weights=Weights(file=file, address=f"{_UPET}/{file}", licence="BSD-3-Clause"),
    )  # fmt: skip


def _xtb(name: str, *aliases: str, model: str) -> Teacher:
    return Teacher(
        name=name, aliases=aliases, package="tblite", extra="xtb", functional=model, model=model, citation=name,
        data="semi-empirical: fitted to geometries, frequencies and interactions of molecules",
    )  # fmt: skip


_OMPA = _sevennet_file("SevenNet_MF_ompa", "checkpoint_sevennet_mf_ompa.pth", "v0.11.0.cp")
_CARDS = [
    _sevennet("sevennet-0", "7net-0"),
    _sevennet("sevennet-l3i5", "7net-l3i5"),
    _sevennet("sevennet-mf-0", "7net-mf-0", "sevennet-mf-0-r2scan", "7net-mf-0-r2scan", functional="r2SCAN",
              data="MPtrj (PBE) and MP r2SCAN", citation="sevennet-mf"),
    _sevennet("sevennet-mf-0-pbe", "7net-mf-0-pbe", data="MPtrj (PBE) and MP r2SCAN", citation="sevennet-mf"),
    _sevennet("sevennet-omat", "7net-omat", data="OMat24",
              weights=_sevennet_file("SevenNet_omat", "checkpoint_sevennet_omat.pth", "v0.11.0.cp")),
    _sevennet("sevennet-mf-ompa", "7net-mf-ompa", "sevennet-mf-ompa-mpa", data="OMat24, sAlex, MPtrj", citation="sevennet-mf",
              weights=_OMPA, model="mpa"),
    _sevennet("sevennet-mf-ompa-omat24", "7net-mf-ompa-omat24", data="OMat24, sAlex, MPtrj", citation="sevennet-mf",
              weights=_OMPA, model="omat24"),
    Teacher(name="chgnet", aliases=("chgnet-0.3.0",), package="chgnet", extra="chgnet", functional="PBE (+U)", data="MPtrj",
            citation="chgnet"),
    _mace("mace-mp-0", "mace-mp/releases/download/mace_mp_0/2023-12-03-mace-128-L1_epoch-199.model", "mace-mp-0-medium",
          data="MPtrj"),
    _mace("mace-mp-0b3", "mace-mp/releases/download/mace_mp_0b3/mace-mp-0b3-medium.model", data="MPtrj"),
    _mace("mace-mpa-0", "mace-mp/releases/download/mace_mpa_0/mace-mpa-0-medium.model", "mace-mpa-0-medium",
          data="MPtrj and sAlex"),
    _mace("mace-omat-0", "mace-mp/releases/download/mace_omat_0/mace-omat-0-medium.model", data="OMat24", licence=_ASL),
    _mace("mace-matpes-r2scan-0", "mace-foundations/releases/download/mace_matpes_0/MACE-matpes-r2scan-omat-ft.model",
          data="OMat24, then MatPES", licence=_ASL, functional="r2SCAN"),
    _orb("orb-v3-conservative-inf-omat", data="OMat24",
         sha256="0a41ef1132ad9c41ee0c7b9d855fccabfefb97abe04625c97ec0d07930b6c0f0"),
    _orb("orb-v3-conservative-inf-mpa", data="MPtrj and Alexandria"),
    _mattersim("1M"),
    _mattersim("5M"),
    _upet("pet-mad-s", "1.5.0", functional="r2SCAN", data="MAD-1.5"),
    _upet("pet-oam-xl", "1.0.0", functional="PBE (+U)", data="OMat24, sAlex, MPtrj"),
    _xtb("gfn2-xtb", "xtb", model="GFN2-xTB"),
    _xtb("gfn1-xtb", model="GFN1-xTB"),
]  # fmt: skip
TEACHERS: dict[str, Teacher] = {card.name: card for card in _CARDS}


def find_teacher(name: str, *, subject: str = "teacher") -> Teacher:
    """The card of a foundation potential, by name or alias in any case.

    Raises:
        BadInput: No such teacher; the message names the nearest one.
    """
    known = {alias: card for card in _CARDS for alias in (card.name, *card.aliases)}
    asked = name.partition("@")[0].strip().lower().replace("_", "-")
    plain = asked.removesuffix(DISPERSION)
    if plain in known:
        card = known[plain] if plain == asked else known[plain].with_dispersion(subject)
        if "@" in name and card.package != "tblite":
            problem, allowed = f"{name!r}: {asked} knows no charge or spin", f"{asked} without what follows @"
            raise BadInput(subject, problem, allowed=allowed, fix="--teacher xtb@charge=1 (GFN2-xTB) knows both")
        return card
    close = [near + asked[len(plain) :] for near in difflib.get_close_matches(plain, known, n=1, cutoff=0.5)]
    problem, fix = f"{name!r} is not known", f"did you mean {close[0]!r}?" if close else 'name one of these, e.g. "sevennet-0"'
    raise BadInput(subject, problem, allowed=", ".join(TEACHERS) + ', or "module:attribute" of an ASE calculator', fix=fix)


def card_of(name: str) -> Teacher | None:
    """The card of a foundation potential; None for an ASE calculator, a model file or a ready student, which have none."""
    with suppress(BadInput):
        return None if ":" in name else find_teacher(name)
    return None


def dispersion_note(name: str, *, unless: str = "") -> list[str]:
    """What the user should know of a teacher without dispersion where that holds molecules together.

    `unless`: What else may add it, for the text."""
    card = card_of(name)
    if card is None or not card.lacks_dispersion:
        return []
    light = f"liquids and molecular crystals usually come out too light{unless}. --teacher {card.name}{DISPERSION} adds it"
    return [f"{card.name} imitates {card.functional}, which lacks dispersion: {light}"]


def teacher_options(name: str) -> dict[str, int]:
    """Charge (e) and number of unpaired electrons in a teacher's name: "xtb@charge=-1,unpaired=1".

    Raises:
        BadInput: Another option, or a value that is no whole number.
    """
    options = {"charge": 0, "unpaired": 0}
    for part in filter(None, name.partition("@")[2].split(",")):
        key, _, value = part.strip().partition("=")
        if key not in options or not value.lstrip("+-").isdigit() or (key == "unpaired" and int(value) < 0):
            allowed, fix = "charge and unpaired, whole numbers", "xtb@charge=-1 or xtb@charge=1,unpaired=1"
            raise BadInput("teacher", f"{part!r} in {name!r}", allowed=allowed, fix=fix)
        options[key] = int(value)
    return options

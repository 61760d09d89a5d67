"""Whom to cite: the works a run rests on, as text or BibTeX."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mdistill.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """One work. `authors` are "Family, Given"; "others" at the end stands for those not listed."""

    authors: tuple[str, ...]
    title: str
    journal: str
    year: int
    doi: str = ""
    volume: str = ""
    pages: str = ""
    kind: Literal["article", "book", "software", "preprint", "proceedings"] = "article"
    why: str = ""


CITATIONS: dict[str, Citation] = {
    "mdistill": Citation(
        authors=("{mdistill developers}",),
        title="mdistill: distil molecular dynamics into fast models that people can trust",
        journal="",
        year=2026,
        kind="software",
        why="this software",
    ),
    "flashmd": Citation(
        authors=("Bigi, Filippo", "Chong, Sanggyu", "Kristiadi, Agustinus", "Ceriotti, Michele"),
        title="FlashMD: long-stride, universal prediction of molecular dynamics",
        journal="arXiv 2505.19350",
        year=2025,
        doi="10.48550/arXiv.2505.19350",
        kind="preprint",
        why="learning molecular dynamics in long strides",
    ),
    "sympnets": Citation(
        authors=("Jin, Pengzhan", "Zhang, Zhen", "Zhu, Aiqing", "Tang, Yifa", "Karniadakis, George Em"),
        title="SympNets: Intrinsic structure-preserving symplectic networks for identifying Hamiltonian systems",
        journal="Neural Networks",
        year=2020,
        volume="132",
        pages="166–179",
        doi="10.1016/j.neunet.2020.08.017",
        why="symplectic maps composed of learned kicks",
    ),
    "sevennet": Citation(
        authors=("Park, Yutack", "Kim, Jaesun", "Hwang, Seungwoo", "Han, Seungwu"),
        title="Scalable Parallel Algorithm for Graph Neural Network Interatomic Potentials in Molecular Dynamics Simulations",
        journal="J. Chem. Theory Comput.",
        year=2024,
        volume="20",
        pages="4857–4868",
        doi="10.1021/acs.jctc.4c00190",
        why="the SevenNet teachers",
    ),
    "sevennet-mf": Citation(
        authors=(
            "Kim, Jaesun", "Kim, Jisu", "Kim, Jaehoon", "Lee, Jiho", "Park, Yutack", "Kang, Youngho", "Han, Seungwu",
        ),
        title="Data-Efficient Multifidelity Training for High-Fidelity Machine Learning Interatomic Potentials",
        journal="J. Am. Chem. Soc.",
        year=2024,
        volume="147",
        pages="1042–1054",
        doi="10.1021/jacs.4c14455",
        why="the multi-fidelity SevenNet teachers (arXiv:2409.07947)",
    ),
    "chgnet": Citation(
        authors=(
            "Deng, Bowen", "Zhong, Peichen", "Jun, KyuJung", "Riebesell, Janosh", "Han, Kevin", "Bartel, Christopher J.",
            "Ceder, Gerbrand",
        ),
        title="CHGNet as a pretrained universal neural network potential for charge-informed atomistic modelling",
        journal="Nature Machine Intelligence",
        year=2023,
        doi="10.1038/s42256-023-00716-3",
        why="the CHGNet teacher",
    ),
    "ase": Citation(
        authors=("Hjorth Larsen, Ask", "Mortensen, Jens Jørgen", "Blomqvist, Jakob", "others"),
        title="The atomic simulation environment—a Python library for working with atoms",
        journal="J. Phys.: Condens. Matter",
        year=2017,
        volume="29",
        pages="273002",
        doi="10.1088/1361-648X/aa680e",
        why="reading structures and trajectories, calculators",
    ),
    "kinisi": Citation(
        authors=("McCluskey, Andrew R.", "Coles, Samuel W.", "Morgan, Benjamin J."),
        title="Accurate Estimation of Diffusion Coefficients and their Uncertainties from Computer Simulation",
        journal="J. Chem. Theory Comput.",
        year=2025,
        volume="21",
        pages="79–87",
        doi="10.1021/acs.jctc.4c01249",
        why="diffusivities and their errors: the method",
    ),
    "kinisi-software": Citation(
        authors=("McCluskey, Andrew R.", "Squires, Alexander G.", "Dunn, Josh", "Coles, Samuel W.", "Morgan, Benjamin J."),
        title="kinisi: Bayesian analysis of mass transport from molecular dynamics simulations",
        journal="Journal of Open Source Software",
        year=2024,
        volume="9",
        pages="5984",
        doi="10.21105/joss.05984",
        why="diffusivities and their errors: the software",
    ),
    "pymatgen": Citation(
        authors=(
            "Ong, Shyue Ping", "Richards, William Davidson", "Jain, Anubhav", "Hautier, Geoffroy", "Kocher, Michael",
            "Cholia, Shreyas", "Gunter, Dan", "Chevrier, Vincent L.", "Persson, Kristin A.", "Ceder, Gerbrand",
        ),
        title="Python Materials Genomics (pymatgen): A robust, open-source python library for materials analysis",
        journal="Computational Materials Science",
        year=2013,
        volume="68",
        pages="314–319",
        doi="10.1016/j.commatsci.2012.10.028",
        why="structures and partial occupancies",
    ),
    "phonopy": Citation(
        authors=("Togo, Atsushi", "Chaput, Laurent", "Tadano, Terumasa", "Tanaka, Isao"),
        title="Implementation strategies in phonopy and phono3py",
        journal="J. Phys.: Condens. Matter",
        year=2023,
        volume="35",
        pages="353001",
        doi="10.1088/1361-648X/acd831",
        why="phonon bands",
    ),
    "vesin": Citation(
        authors=("Bigi, Filippo", "Abbott, Joseph W.", "Loche, Philip", "others"),
        title="Metatensor and metatomic: foundational libraries for interoperable atomistic machine learning",
        journal="arXiv:2508.15704",
        year=2025,
        doi="10.48550/arXiv.2508.15704",
        kind="preprint",
        why="neighbour lists (vesin)",
    ),
    "zbl": Citation(
        authors=("Ziegler, James F.", "Biersack, Jochen P.", "Littmark, Uwe"),
        title="The Stopping and Range of Ions in Solids",
        journal="Pergamon Press, New York",
        year=1985,
        kind="book",
        why="core repulsion of the student",
    ),
    "ace": Citation(
        authors=("Drautz, Ralf",),
        title="Atomic cluster expansion for accurate and transferable interatomic potentials",
        journal="Phys. Rev. B",
        year=2019,
        volume="99",
        pages="014104",
        doi="10.1103/PhysRevB.99.014104",
        why="descriptors of the student",
    ),
    "baoab": Citation(
        authors=("Leimkuhler, Benedict", "Matthews, Charles"),
        title="Robust and efficient configurational molecular sampling via Langevin dynamics",
        journal="J. Chem. Phys.",
        year=2013,
        volume="138",
        pages="174102",
        doi="10.1063/1.4802990",
        why="Langevin dynamics (BAOAB)",
    ),
    "bussi": Citation(
        authors=("Bussi, Giovanni", "Donadio, Davide", "Parrinello, Michele"),
        title="Canonical sampling through velocity rescaling",
        journal="J. Chem. Phys.",
        year=2007,
        volume="126",
        pages="014101",
        doi="10.1063/1.2408420",
        why="thermostat (stochastic velocity rescaling)",
    ),
    "cell-rescaling": Citation(
        authors=("Bernetti, Mattia", "Bussi, Giovanni"),
        title="Pressure control using stochastic cell rescaling",
        journal="J. Chem. Phys.",
        year=2020,
        volume="153",
        pages="114107",
        doi="10.1063/5.0020514",
        why="barostat (stochastic cell rescaling)",
    ),
    "ewald": Citation(
        authors=("Ewald, Paul Peter",),
        title="Die Berechnung optischer und elektrostatischer Gitterpotentiale",
        journal="Annalen der Physik",
        year=1921,
        volume="369",
        pages="253–287",
        doi="10.1002/andp.19213690304",
        why="electrostatic energies that rank the orderings",
    ),
    "torch": Citation(
        authors=("Ansel, Jason", "Yang, Edward", "He, Horace", "others"),
        title="PyTorch 2: Faster Machine Learning Through Dynamic Python Bytecode Transformation and Graph Compilation",
        journal="ASPLOS '24, Volume 2",
        year=2024,
        pages="929–947",
        doi="10.1145/3620665.3640366",
        kind="proceedings",
        why="tensors and automatic differentiation",
    ),
}  # fmt: skip

_ALIASES = {
    "sevennet-0": "sevennet",
    "7net-0": "sevennet",
    "sevennet-l3i5": "sevennet",
    "7net-l3i5": "sevennet",
    "sevennet-mf-0": "sevennet-mf",
    "7net-mf-0": "sevennet-mf",
    "chgnet-0.3.0": "chgnet",
    "langevin": "baoab",
    "bernetti": "cell-rescaling",
    "pytorch": "torch",
}
_GROUPS = {"kinisi": ("kinisi", "kinisi-software"), "sevennet-mf": ("sevennet", "sevennet-mf")}
_ENTRY = {"article": "article", "book": "book", "software": "misc", "preprint": "misc", "proceedings": "inproceedings"}
_VENUE = {"article": "journal", "book": "publisher", "software": "note", "preprint": "howpublished", "proceedings": "booktitle"}


def works(keys: Iterable[str]) -> dict[str, Citation]:
    """The works behind the keys, each once, in the order asked for; a teacher's name stands for its papers.

    Raises:
        BadInput: A key that is not known.
    """
    found: dict[str, Citation] = {}
    for key in keys:
        name = _ALIASES.get(key.lower(), key.lower())
        if name not in CITATIONS:
            raise BadInput("citation", f"unknown key {key!r}", allowed=", ".join(CITATIONS), fix="choose one of these keys")
        found |= {k: CITATIONS[k] for k in _GROUPS.get(name, (name,))}
    return found


def cite(keys: Iterable[str], style: Literal["text", "bibtex"] = "text") -> str:
    """The works behind the keys as numbered text, or as BibTeX entries that a .bib file can hold.

    Raises:
        BadInput: A key or a style that is not known.
    """
    found = works(keys)
    if style == "text":
        return "\n".join(f"[{i}] {reference(c)}" for i, c in enumerate(found.values(), 1))
    if style == "bibtex":
        return "\n\n".join(_bibtex(key, c) for key, c in found.items())
    raise BadInput("style", f"{style!r}", allowed="text, bibtex", fix="choose one of these")


def reference(citation: Citation) -> str:
    """One work as a line: authors, title, journal volume, pages (year), doi."""
    names = [_initials(a) for a in citation.authors if a != "others"]
    if "others" in citation.authors:
        authors = f"{', '.join(names)} et al."
    else:
        authors = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    place = ", ".join(filter(None, [f"{citation.journal} {citation.volume}".strip(), citation.pages]))
    tail = f"{place} ({citation.year})" if place else f"({citation.year})"
    return f"{authors}, {citation.title}, {tail}" + (f", doi:{citation.doi}" if citation.doi else "")


def _initials(author: str) -> str:
    family, _, given = author.strip("{}").partition(", ")
    initials = " ".join(f"{name[0]}." for name in given.replace("-", " ").split())
    return f"{initials} {family}".strip()


def _bibtex(key: str, citation: Citation) -> str:
    fields = {
        "author": " and ".join(citation.authors),
        "title": f"{{{citation.title}}}",
        _VENUE[citation.kind]: citation.journal,
        "volume": citation.volume,
        "pages": citation.pages.replace("–", "--"),
        "year": str(citation.year),
        "doi": citation.doi,
    }
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items() if value]
    return f"@{_ENTRY[citation.kind]}{{{key},\n" + ",\n".join(lines) + "\n}"

"""References: complete, of valid form, each once."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from mdistill.errors import BadInput
from mdistill.report.citations import bibliography, cite, reference, works


def test_every_work_is_complete_and_its_doi_well_formed() -> None:
    for key, work in bibliography().items():
        assert work["author"] and work["title"] and work["why"], key
        assert 1900 < int(work["year"]) < 2100
        assert work["type"] in ("article", "book", "misc", "inproceedings"), "a type that BibTeX styles know"
        assert key == "mdistill" or work["type"] == "book" or re.fullmatch(r"10\.\d{4,9}/\S+", work["doi"]), key
        assert work["type"] != "article" or work["journal"]


def test_every_entry_of_the_file_is_read() -> None:
    text = files("mdistill.report").joinpath("references.bib").read_text(encoding="utf-8")
    assert len(bibliography()) == text.count("\n@") and text.count("{") == text.count("}")
    assert sum(len(work) - 2 for work in bibliography().values()) == text.count(" = {")


def test_text_and_bibtex() -> None:
    text = cite(["sevennet-0", "SevenNet-l3i5", "kinisi", "kinisi-software"])
    assert text.splitlines()[0].startswith("[1] Y. Park, J. Kim, S. Hwang and S. Han, Scalable Parallel")
    assert text.splitlines()[0].endswith("J. Chem. Theory Comput. 20, 4857–4868 (2024), doi:10.1021/acs.jctc.4c00190")
    assert [line[:4] for line in text.splitlines()] == ["[1] ", "[2] ", "[3] "]
    bibtex = cite(bibliography(), style="bibtex")
    assert bibtex.count("{") == bibtex.count("}")
    assert len(re.findall(r"^@\w+\{[\w-]+,$", bibtex, re.MULTILINE)) == len(bibliography())
    assert not re.search(r"(why|ids|related) = ", bibtex)
    assert "pages = {4857--4868}" in bibtex and "author = {Ziegler, James F. and Biersack, Jochen P. and Littmark, Uwe}" in bibtex
    assert reference(bibliography()["ase"]).startswith("A. Hjorth Larsen, J. J. Mortensen, J. Blomqvist et al., ")


def test_a_teachers_name_stands_for_its_papers() -> None:
    assert list(works(["sevennet-mf-0"])) == ["sevennet", "sevennet-mf"]
    assert list(works(["kinisi", "kinisi-software"])) == ["kinisi", "kinisi-software"]


def test_unknown_keys_and_styles_are_refused() -> None:
    with pytest.raises(BadInput, match="unknown key 'nobody'"):
        cite(["nobody"])
    with pytest.raises(BadInput, match="allowed: text, bibtex"):
        cite(["ase"], style="endnote")  # type: ignore[arg-type]

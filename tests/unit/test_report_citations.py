"""References: complete, of valid form, each once."""

from __future__ import annotations

import re

import pytest

from mdistill.errors import BadInput
from mdistill.report.citations import CITATIONS, cite, reference, works


def test_every_work_is_complete_and_its_doi_well_formed() -> None:
    for key, work in CITATIONS.items():
        assert work.authors and work.title and work.why, key
        assert 1900 < work.year < 2100
        assert work.kind in ("software", "book") or re.fullmatch(r"10\.\d{4,9}/\S+", work.doi), key
        assert work.kind != "article" or work.journal


def test_text_and_bibtex() -> None:
    text = cite(["sevennet-0", "SevenNet-l3i5", "kinisi"])
    assert text.splitlines()[0].startswith("[1] Y. Park, J. Kim, S. Hwang and S. Han, Scalable Parallel")
    assert text.splitlines()[0].endswith("J. Chem. Theory Comput. 20, 4857–4868 (2024), doi:10.1021/acs.jctc.4c00190")
    assert [line[:4] for line in text.splitlines()] == ["[1] ", "[2] ", "[3] "]
    bibtex = cite(CITATIONS, style="bibtex")
    assert bibtex.count("{") == bibtex.count("}")
    assert len(re.findall(r"^@\w+\{[\w-]+,$", bibtex, re.MULTILINE)) == len(CITATIONS)
    assert "pages = {4857--4868}" in bibtex and "author = {Ziegler, James F. and Biersack, Jochen P. and Littmark, Uwe}" in bibtex
    assert reference(CITATIONS["ase"]).startswith("A. Hjorth Larsen, J. J. Mortensen, J. Blomqvist et al., ")


def test_a_teachers_name_stands_for_its_papers() -> None:
    assert list(works(["sevennet-mf-0"])) == ["sevennet", "sevennet-mf"]
    assert list(works(["kinisi", "kinisi-software"])) == ["kinisi", "kinisi-software"]


def test_unknown_keys_and_styles_are_refused() -> None:
    with pytest.raises(BadInput, match="unknown key 'nobody'"):
        cite(["nobody"])
    with pytest.raises(BadInput, match="allowed: text, bibtex"):
        cite(["ase"], style="endnote")  # type: ignore[arg-type]

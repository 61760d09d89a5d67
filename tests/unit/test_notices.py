"""Notices are told once and noted; other warnings are ignored while a command runs."""

from __future__ import annotations

import json
import warnings

import pytest

from mdistill.errors import MdistillNotice
from mdistill.notices import heard, listening, notify
from mdistill.runs.results import Results, write_results


def test_a_notice_is_told_once_and_noted(capsys, tmp_path):
    with listening():
        warnings.warn("of a library", UserWarning, stacklevel=1)
        for text in ("slow", "slow", "small"):
            notify(text)
        assert heard() == ["slow", "small"]
        write_results(tmp_path, Results(command="info", notes=["small", "other"]))
    assert capsys.readouterr().err == "mdistill: slow\nmdistill: small\n"
    assert json.loads((tmp_path / "results.json").read_text())["notes"] == ["small", "other", "slow"]
    assert heard() == []


def test_a_notice_is_a_warning_in_python():
    with pytest.warns(MdistillNotice, match="slow"):
        notify("slow")
    assert heard() == []

"""The encoder of trajectories by MOMENT: what it says where its weights or its package are absent."""

from __future__ import annotations

import sys

import pytest

from mdistill.errors import BadInput, MissingPackage
from research.moment_encoder import moment_encoder


def test_absent_weights_and_package_are_named(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=r"config\.json"):
        moment_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "momentfm", None)
    with pytest.raises(MissingPackage, match="pip install momentfm"):
        moment_encoder(tmp_path)

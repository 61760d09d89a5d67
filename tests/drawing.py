"""Figures that are not drawn, for tests of something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mdistill.report import figures


class Drawing:
    """In place of a figure."""

    def savefig(self, target: Any, **_: Any) -> None:
        target.write("<svg/>") if hasattr(target, "write") else Path(target).write_bytes(b"drawing")

    def set_layout_engine(self, name: str) -> None:
        pass


def draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on files and pages hold empty figures."""
    monkeypatch.setattr(figures, "_draw", lambda figure: Drawing())
    monkeypatch.setattr(figures, "_tidy", lambda text, *_, **__: text)

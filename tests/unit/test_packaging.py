"""What is installed: a wheel and an sdist hold everything that the package needs, and recipes agree with pyproject.toml."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def test_the_conda_recipe_needs_what_the_package_needs():
    text = (ROOT / "recipe" / "meta.yaml").read_text(encoding="utf-8")
    listed = set(re.findall(r"^    - (\S+) >=(\S+)$", text[text.index("  run:") :], re.MULTILINE))
    asked = {
        re.match(r"([\w-]+)>=(.+)", one).groups() for one in [*PROJECT["dependencies"], f"python{PROJECT['requires-python']}"]
    }
    assert listed == {(CONDA.get(name, name), version) for name, version in asked}
    assert f'version = "{PROJECT["version"]}"' in text and "    - cxx-compiler" in text
    assert PROJECT["license"] in text


def test_the_image_keeps_a_compiler_and_runs_as_a_user():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "g++" in text and "USER user" in text and 'ENTRYPOINT ["mdistill"]' in text and "constraints.txt" in text


def test_a_release_stores_no_secret():
    text = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert "id-token: write" in text and "secrets." not in text and "password" not in text.replace("no password", "")


@pytest.mark.slow
@pytest.mark.parametrize("first", ["tree", "sdist"])
def test_a_wheel_works_away_from_the_source(first, tmp_path, trust):
    """Built without network from the tree or from its sdist, installed into an empty folder, run without the checkout."""
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=left_out)

    def build(what: str, folder: Path) -> None:
        code = f"import setuptools.build_meta as b; b.build_{what}({str(tmp_path)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)

    if first == "sdist":
        build("sdist", source)
        (packed,) = tmp_path.glob("*.tar.gz")
        shutil.unpack_archive(packed, tmp_path / "unpacked", filter="data")
        (source,) = (tmp_path / "unpacked").iterdir()
    build("wheel", source)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tree = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src" / "mdistill").rglob("*") if p.is_file()}
    missing = {name for name in tree if "__pycache__" not in name and "/prebuilt/" not in name} - set(names)
    assert not missing, missing
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth"))]
    zipfile.ZipFile(wheel).extractall(tmp_path / "empty")
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "empty"), "MDISTILL_MODELS": str(tmp_path / "own")}
    for words in (
        ["--version"],
        ["models", "al-sevennet-0", "--out", "start"],
        ["info", "start/al-sevennet-0.mdistill"],
        ["info", "transport"],
    ):
        command = [sys.executable, "-P", "-m", "mdistill.cli", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    where = subprocess.run(
        [sys.executable, "-P", "-c", "import mdistill; print(mdistill.__file__)"],
        check=True,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert str(tmp_path / "empty") in where.stdout
    trust("T47", f"wheel from the {first}: files of the package that are missing in it", len(missing), "0")

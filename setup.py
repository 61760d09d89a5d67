"""Wheels with kernels in them: MDISTILL_PREBUILD=1 compiles those of the four sizes of students when a wheel is built."""

import os
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PREBUILD = os.environ.get("MDISTILL_PREBUILD") == "1"


class BuildWithKernels(build_py):
    """The package, then its kernels in the folder that is built."""

    def run(self) -> None:
        super().run()
        if PREBUILD:
            sys.path.insert(0, str(Path(__file__).parent / "src"))
            from mdistill.nets.carried_kernels import carried_kernels, prebuild

            made = prebuild(carried_kernels(), Path(self.build_lib) / "mdistill" / "kernels" / "prebuilt")
            print(f"{len(made)} kernels, {sum(path.stat().st_size for path in made) / 1e6:.1f} MB")


class WheelWithKernels(bdist_wheel):
    """A wheel for one kind of machine and any Python."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = not PREBUILD

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, platform = super().get_tag()
        return ("py3", "none", platform) if PREBUILD else (python, abi, platform)


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": WheelWithKernels})

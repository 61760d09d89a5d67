"""A script for SLURM: an array with one task for each run of a campaign that is not done."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mdistill.campaign.plan import Campaign
from mdistill.errors import BadInput
from mdistill.io.files import write_text

SCRIPT = "campaign.sbatch"
_OWN = ("--array", "--output", "-o", "-a", "--signal")


def slurm_script(campaign: Campaign, names: Sequence[str], flags: Sequence[str] = ()) -> str:
    """The script. Each task does one run, saves two minutes before its time is over, and is queued again if its node fails.

    Raises:
        BadInput: A line for the head that is no option of sbatch, or one that the script sets itself.
    """
    for line in campaign.slurm:
        if not re.fullmatch(r"--?[A-Za-z][\w-]*(?:[= ][^\n;&|`$<>]*)?", line) or line.split("=")[0].split()[0] in _OWN:
            allowed = f"an option of sbatch other than {', '.join(_OWN)}"
            raise BadInput(
                "slurm in campaign.toml", repr(line), allowed=allowed, fix='slurm = ["--partition=long", "--time=24:00:00"]'
            )
    hours = campaign.max_hours
    whole = int(hours * 60) + 5 if hours is not None else None
    given = {line.split("=")[0].split()[0] for line in campaign.slurm}
    head = ["--job-name=mdistill", "--ntasks=1", "--cpus-per-task=1", "--requeue", "--open-mode=append", "--signal=B:USR1@120"]
    head += [f"--time={whole}"] if whole is not None else []
    head = [line for line in head if line.split("=")[0] not in given]
    folder = shlex.quote(str(campaign.folder.resolve()))
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {line}" for line in (*head, *campaign.slurm)),
        f"#SBATCH --array=0-{len(names) - 1}",
        f"#SBATCH --output={campaign.folder.resolve() / 'logs'}/slurm-%A_%a.txt",
        f"# Written by mdistill campaign --slurm: {len(names)} runs. Summary: mdistill campaign status {folder}",
        "runs=(",
        *(f"  {shlex.quote(name)}" for name in names),
        ")",
        "export OMP_NUM_THREADS=1",
        f"exec {shlex.quote(sys.executable)} -P -m mdistill.cli campaign run {folder} "
        + " ".join(['"${runs[$SLURM_ARRAY_TASK_ID]}"', *map(shlex.quote, flags)]),
    ]
    return "\n".join(lines) + "\n"


def write_slurm_script(campaign: Campaign, names: Sequence[str], flags: Sequence[str] = ()) -> Path:
    """Write the script into the folder of the campaign, and have bash read it where there is one.

    Raises:
        BadInput: A line for its head that cannot be used.
    """
    path = campaign.folder / SCRIPT
    write_text(path, slurm_script(campaign, names, flags))
    (campaign.folder / "logs").mkdir(exist_ok=True)
    bash = shutil.which("bash")
    if bash is not None:
        read = subprocess.run([bash, "-n", str(path)], capture_output=True, text=True, check=False)  # noqa: S603
        if read.returncode != 0:
            raise BadInput(path, read.stderr.strip(), allowed="a script that bash reads", fix="report this; correct it by hand")
    return path

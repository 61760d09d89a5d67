"""The README's pictures, made by the software from a finished demo run (`make demo`, then this).

python docs/make_pictures.py [RUN]        RUN: default runs/demo
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mdistill.io.files import write_text
from mdistill.report.ladder import ladder_svg
from mdistill.runs.results import read_results

PICTURES = Path(__file__).parent / "pictures"


def main() -> int:
    """Write ladder.svg and, where Chromium is installed, report.png."""
    run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
    write_text(PICTURES / "ladder.svg", ladder_svg(read_results(run)))
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        print("no Chromium: report.png was left as it is")
        return 0
    with tempfile.TemporaryDirectory() as profile:
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--hide-scrollbars",
        ]
        target = [f"--user-data-dir={profile}", "--window-size=1100,1500", f"--screenshot={PICTURES / 'report.png'}"]
        subprocess.run(
            [browser, *options, *target, (run / "report.html").resolve().as_uri()], check=True, capture_output=True, timeout=120
        )
    print(f"written: {PICTURES / 'ladder.svg'}, {PICTURES / 'report.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

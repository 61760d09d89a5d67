"""`python -m mdistill`: the command line, for launchers that start a module (torchrun)."""

from mdistill.cli import main

if __name__ == "__main__":
    main()

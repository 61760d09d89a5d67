"""Commands for hard labels: select-frames, harden."""

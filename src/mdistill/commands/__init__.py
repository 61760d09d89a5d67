"""One file per sub-command: what its flags are, what its help teaches, and the call it makes. No torch at import."""

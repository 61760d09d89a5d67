"""Forces predicted directly: training, safe dynamics, diagnostics, and structures to learn from."""

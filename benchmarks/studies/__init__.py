"""Finished studies: what was asked once, how it was measured. Their records are in benchmarks/results/."""

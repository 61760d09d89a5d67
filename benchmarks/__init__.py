"""Measurements of the README, a script a row; run from the repository's folder: `python -m benchmarks.student_speed --help`."""

"""Baselines and ideas that lost to what the package does. Not in the wheel."""

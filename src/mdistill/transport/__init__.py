"""Ionic conductivity from a structure alone: measured values, features, trees, intervals, and when not to trust them."""

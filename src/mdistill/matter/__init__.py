"""Kinds of matter: what is asked of each, molecules from SMILES, bonds, mass repartitioning."""

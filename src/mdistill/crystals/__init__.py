"""A crystal as published: CIF, symmetry, partial occupancies, charges, and whether it can be one."""

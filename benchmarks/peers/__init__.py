"""Other potentials fitted to the labels of our students, and what evaluates them: one file a method."""

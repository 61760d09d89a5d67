"""A teacher at work: the plan of its tasks, and who carries them out."""

"""Many crystals: the main job as one queue that resumes (here, by Dask, by SLURM), and the set that teaches motion."""

"""Campaigns: the main job on many crystals as one queue that resumes, here, by Dask or by SLURM."""

"""Files in and out: structures, trajectories, run folders, results. Every write goes to a temporary name and is renamed."""

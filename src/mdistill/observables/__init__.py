"""Tables and figures of what trajectories show: transport, structure, density of ions, production."""

"""A run is a folder: its config, its checkpoints, its data, and images drawn from its networks."""

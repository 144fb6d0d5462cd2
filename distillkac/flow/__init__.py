"""Flows between data and noise: the processes, the velocity field of a network with its guidance, and its integrators."""

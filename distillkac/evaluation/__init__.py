"""Measuring images against real ones, and what the theory says of a run against the run."""

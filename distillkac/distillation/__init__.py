"""Distillation: the stages of a plan, and what the students of each learn from their teacher."""

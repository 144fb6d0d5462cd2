"""Training: one loop for teachers and students, what it fits, and what keeps it exact on any number of processes."""

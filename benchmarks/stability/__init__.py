"""`make stability`: what strong guidance, few steps and a bound on the speed do to each process."""

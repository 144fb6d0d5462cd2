"""`make gpu`: everything that a GPU has to show, in one command (__main__.py)."""

"""What every other room may use: files, paths, options, random numbers, progress bars. It imports none of them."""

"""What the workflows run; nothing of it is installed."""

"""Drive any implementation through one door; the only code that starts processes."""

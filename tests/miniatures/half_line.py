"""Prints an answer without a final newline: unusual, and no failure."""

print("Once upon a ti", end="")

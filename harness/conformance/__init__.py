"""Is it right? Cases, their goldens, and the verdicts on implementations."""

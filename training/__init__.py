"""Development tools that make the embedded models; not part of the wheel."""

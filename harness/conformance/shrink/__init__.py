"""Shrinking: a failure becomes the smallest model, vocabulary and request that still show it.

repro     a model and one question about it, and how small it is
smaller   what can be left out of it
search    candidates, put to the program and judged, until nothing more can be left out
cases     from a failing golden case to a directory that shows it
"""

"""Self-naming checkpoints: ordinary llama2.c files on which a program prints the name of its own bug.

recipes  which models, alterations and prompts
outcome  what a port, right or faulty, does at the end of a prompt
craft    rows of states, pieces of names
probe    what each bug makes a probe say, and who could have said what
reading  what several probes said, intersected
files    on disk, verified by running every port on what was written
"""

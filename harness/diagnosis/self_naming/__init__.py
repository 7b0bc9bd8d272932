"""Self-naming checkpoints: ordinary llama2.c files on which a program prints the name of its own bug.

recipes  which models, alterations and prompts
outcome  what a port, right or faulty, does at the end of a prompt
rows     the tokens behind the old vocabulary, and their part of the classifier
craft    from states to rows, from faults to pieces
probe    what each bug makes a probe say, and who could have said what
reading  what several probes said, intersected
guide    what stands beside the files, for people who have nothing installed
files    on disk, verified by running every port on what was written
"""

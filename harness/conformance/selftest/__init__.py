"""The judge is judged: programs with a known fault, and honest ones, put to the gate that judges everybody.

ported      the catalogue's faults in numpy, as programs
compiled    faults compiled into implementations, from the replacements in their faults.toml
honest      builds and precisions that must never be called wrong
kills       a program with a fault through `check`, configuration by configuration: what kills it, if anything
alarms      honest programs on cases made on the fly
naming      what each route of diagnosis says of the programs that were killed
run         all of it, with progress; record: its figures, and whether they fell below those of before
"""

"""Options that nobody would guess, explained in the usage text."""

import argparse

import tiny_llama

parser = argparse.ArgumentParser()
parser.add_argument("--llm-file", required=True, help="weights to load")
parser.add_argument("--pieces", required=True, help="the tokenizer's file")
parser.add_argument("--begin-with", default="", help="prompt to go on from")
parser.add_argument("--how-many", type=int, default=256, help="number of tokens to print")
parser.add_argument("--heat", type=float, default=1.0, help="sampling temperature, 0 is greedy")
parser.add_argument("--dice", type=int, default=0, help="seed of the random generator")
a = parser.parse_args()
tiny_llama.tell(a.llm_file, a.pieces, a.begin_with, a.how_many, a.heat, a.dice or None)

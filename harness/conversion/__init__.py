"""From one form of a model to another, with a check that shares nothing with the conversion, and what a file is.

convert   read, check, write, read back, check again, and only then give the result its name
carried   the tokenizer that goes along
compare   tensors of two checkpoints, bit for bit or within the stated rounding
suspects  the mistakes that conversions make, each as a change of a checkpoint
logits    a checkpoint's logits on a prompt, in the memory of one layer
inspect   what a file is, from its header
by_text   what looks wrong with a model when it reads a text
"""

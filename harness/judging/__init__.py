"""Pure judgement of ids and bytes: no files, no processes; whatever computes logits comes in as an argument."""

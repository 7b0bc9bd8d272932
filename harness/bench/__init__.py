"""How fast is it? Never two measurements at once on one machine; ratios within one run, interleaved."""

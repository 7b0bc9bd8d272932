"""Generated models: an implementation is put to thousands of small ones, and a failure shrinks to a few kilobytes.

recipe      a model and what is asked of it, from a few numbers; its margins, asserted
strategy    which recipes there are, as a Hypothesis strategy
traced      what a run recorded, judged by the white-box tracer
trial       one recipe, one implementation: asked, and judged by the judges of golden cases
saved       a failure as a directory: checkpoint, tokenizer, the verdict, how to see it again
run         as many recipes as the time allows, the failures of earlier runs first
side_by_side  the same in several processes
"""

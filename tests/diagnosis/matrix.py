"""What bugs did to stories260K, measured in an engine written from llama2.c's rules alone, another than ours.

One row for each bug: its name here, the largest logit error after BOS, and for every probe the first wrong piece,
counted from 0 with the prompt.

    .      nothing is wrong
    o      the same tokens, but another stdout
    #N     the same tokens, but N of them
    X      the faulty engine failed
    -      not measured
"""

PROBES = list("ABCDEUFGHKLXRS")

TABLE = """
v0-ffn-norm-second                   14    0    3    0    0    5   12    9    7    3    0    -    0    0    0
v0-w3-before-w2                      15    0    3    0    0    5   12    9    7    3    0    -    0    0    0
ffn-gate-up-swapped                   5    2    3    2    0    5   12    9    8    3    2    -    0    1    0
w-down-transposed                    17    0    3    0    0    5   12    9    7    3    0    -    0    0    0
wq-transposed                         0    3    3    3    3    5   12    9    8    3    3    -    1    1    1
wo-transposed                       6.1    3    3    1    2    5   12    9    7    3    3    -    0    1    0
rope-half-split                       0   10    3    3    3    5   12    9    7    3   10    -    1    1    5
rope-backwards                        0    8    5    8    8    5   14    9    7    4    8    -    1    1    4
rope-exponent-doubled                 0   14    5   14    8    5   15    9    7    9   14    -    1    7    5
rope-exponent-halved                  0    3    3    3    3    5   15   10    7    3    3    -    1    2    4
rope-integer-division                 0    3    3    3    3    5   13    9    7    3    3    -    1    1    2
rope-theta-1e6                        0   20    5   18    8    5   18    9    7    9   20    -    1    7    8
rope-global-index                     0    3    3    3    3    5   13   10    8    3    3    -    1    1    3
rope-k-missing                        0    8    3    8    8    5   14    9    8    4    8    -    1    4    5
rope-q-missing                        0   12    3    3    3    5   12    9    7    4   12    -    1    1    4
rope-missing                          0   12    5    9    9    5   12    9    7    6   12    -    1    1    5
rope-on-v                             0   11    3    8    8    5   14   10    7    7   11    -    1    4    1
rope-both-one-ahead                   0    .    .    .    .    .    .    .    .    .    .    -    .    .    .
rope-q-one-ahead                      0    8    3    8    8    5   13   10    7    5    8    -    2    6    3
rope-half-of-k                        0   19    6   12    8    5   16   11    8    4   19    -    1    7    5
attention-unscaled                    0   20   14   18    8    5   13   10    8    8   20    -    1    7    3
attention-scale-dim                   0   20   12    9    9    5   14   10    8    8   20    -    1    7    5
attention-scale-no-root               0   20   12    9    9    5   14   10    8    8   20    -    1    7    5
heads-modulo                        7.1    1    3    1    0    5   12    9    7    3    1    -    0    1    0
heads-first                         7.5    1    3    1    0    5   12    9    7    3    1    -    0    1    0
heads-by-kv-heads                   5.7    2    3    1    0    5   12   10    7    3    2    -    0    7    0
mask-excludes-self-but-first          0   35    4   35    8    5   13   15   11    4   35    -    1    1    1
softmax-all-slots                   4.4   12    3    3    3    5   13    9    7    3   12    -    0    1    1
rope-cached-before                    0    8    3    8    8    5   14    9    8    4    8    -    1    4    5
cache-without-layers                  0    3    3    3    3    5   13    9    7    3    3    3    1    1    3
norm-eps-missing                9.3e-05    .    .    .    .    .    .    .    .    .    .    -    0    .    .
norm-eps-1e-6                   8.4e-05    .    .    .    .    .    .    .    .    .    .    -    0    .    .
norm-eps-after-root             8.8e-05    .    .    .    .    .    .    .    .    .    .    -    0    .    .
norm-eps-before-mean            9.2e-05    .    .    .    .    .    .    .    .    .    .    -    0    .    .
norm-sum                             15    0    3    0    0    5   12    9    7    3    0    -    0    0    0
norm-centred                       0.34   39    4    9    9    5   13   13    9    3   39    -    1    1    1
norm-gain-plus-one                   11    1    3    1    1    5   13    9    7    3    1    -    0    1    1
norm-gain-ignored                   6.7    2    3    2    2    5   12   10    7    3    2    -    0    1    0
norm-final-missing                  6.4   20    4    9    8    5   13   10    7    3   20    -    1    7    1
attention-residual-missing           17    0    3    0    0    5   12    9    7    3    0    -    0    0    0
ffn-residual-missing                 27    0    3    0    0    5   12    9    7    3    0    -    0    0    0
norm-ffn-gain-of-attention            5    1    3    1    1    5   12    9    7    3    1    -    0    7    0
ffn-parallel                        3.6    3    3    3    3    6   12    9    7    3    3    -    0    7    0
ffn-relu                              3    5    3    8    8    5   12    9    7    3    5    -    0    4    0
ffn-gelu                            1.1   30    5   18    8    5   15    9    8   15   30    -    1    4    0
ffn-sigmoid                          16    0    3    0    0    5   12    9    7    3    0    -    0    0    0
ffn-silu-sign                        12    0    3    0    0    5   12    9    7    3    0    -    0    0    0
ffn-no-product                       14    0    3    0    0    5   12    9    7    3    0    -    0    0    0
softmax-unnormalised                  0    2    5    2    2    5   13    9    8    3    2    -    1    6    2
last-layer-skipped                  2.9    2    3    2    0    5   13    9    8    3    2    -    0    1    0
tokenizer-no-bos                      0    X    0    X    X    0    0    0    0    0    X    -    X    X    X
tokenizer-no-dummy-prefix             0    .    0    .    .    0    0    0    0    0    .    -    .    .    .
tokenizer-dummy-prefix-on-empty       0    0    .    0    0    .    .    .    .    .    0    -    0    0    0
tokenizer-no-byte-offset              0    .    .    .    .    .    3    .    .    .    .    -    .    .    .
tokenizer-byte-lookup                 0    .    .    .    .    .    .    1    .    .    .    -    .    .    .
tokenizer-leftmost-first              0    .    .    .    .    .    .    .    .    0    .    -    .    .    .
tokenizer-lowest-score                0    .    .    .    .    0    .    .    0    0    .    -    .    .    .
tokenizer-ties-right                  0    .    .    .    .    .    .    .    1    .    .    -    .    .    .
tokenizer-no-merges                   0    .    0    .    .    0    5    5    0    0    .    -    .    .    .
tokenizer-floor-0                     0    .    0    .    .    0    5    5    0    0    .    -    .    .    .
tokenizer-floor-100                   0    .    1    .    .    4    5    .    .    2    .    -    .    .    .
space-after-bos-kept                  0    o    o    o    o    o    o    o    o    o    o    -    .    .    .
spaces-stripped                       0    o    o    o    o    o    o    o    o    o    o    -    o    .    o
byte-pieces-literal                   0    .    o    .    .    .    o    .    .    .    .    -    .    o    o
stops-at-eos                          0    .    .    .    .    .    .    .    .    .    .    -    .    .  #60
steps-without-prompt                  0    .  #63    .    .  #65  #60  #49  #47  #43    .    -    .    .    .
steps-count-bos                       0  #59  #59  #59  #59  #59  #47  #39  #39  #39  #39    -  #59  #59    .
rng-shifts                            0    .    .   19    0    5    .    .    .    .    .    -    .    .    .
rng-no-multiplier                     0    .    .    8    0    5    .    .    .    .    .    -    .    .    .
rng-low-bits                          0    .    .    8    5    5    .    .    .    .    .    -    .    .    .
rng-shift-32-bit                      0    .    .    9    8    8    .    .    .    .    .    -    .    .    .
coin-32-bits                          0    .    .    .    .    .    .    .    .    .    .    -    .    .    .
coin-for-prompt                       0    .    .    .    .    5    .    .    .    .    .    -    .    .    .
topp-at-least                         0    .    .    .    .    .    .    .    .    .    .    -    .    .    .
topp-without-crossing                 0    .    .   33    .   25    .    .    .    .    .    -    .    .    .
topp-scaled-by-topp                   0    .    .   33    .    5    .    .    .    .    .    -    .    .    .
topp-unscaled                         0    .    .    9    .    5    .    .    .    .    .    -    .    .    .
topp-unsorted                         0    .    .    8    .    5    .    .    .    .    .    -    .    .    .
topp-ascending                        0    .    .    8    .    5    .    .    .    .    .    -    .    .    .
topp-no-cutoff                        0    .    .    .    .    .    .    .    .    .    .    -    .    .    .
topp-cutoff-of-topp                   0    .    .    .    .    .    .    .    .    .    .    -    .    .    .
topp-cutoff-undivided                 0    .    .   33    .    5    .    .    .    .    .    -    .    .    .
temperature-multiplied                0    .    .    .    .    5    .    .    .    .    0    -    .    .    .
temperature-after-softmax             0    .    .    .    .    5    .    .    .    .    0    -    .    .    .
topp-ignored                          0    .    .    8    .    5    .    .    .    .    .    -    .    .    .
topp-zero-greedy                      0    .    .    .    8    .    .    .    .    .    .    -    .    .    .
probabilities-summed-in-double        0    .    .    .    .    .    .    .    .    .    .    -    .    .    .
seed-unsigned                         0    .    .    .    .    5    .    .    .    .    .    -    .    .    .
argmax-last                           0    .    .    .    .    .    .    .    .    .    .    -    .    .    .
sampler-softmax-overflows             0    .    .    .    .    .    .    .    .    .    0    -    .    .    .
cache-row-of-dim                      0    .    .    .    .    .    .    .    .    .    .  256    .    .    .
tables-not-skipped                    0    .    .    .    .    .    .    .    .    .    .    -    0    0    .
negative-vocab-tied                   0    .    .    .    .    .    .    .    .    .    .    -    .    0    .
norm-in-double                  4.3e-06    .    .    .    .    .    .    .    .    .    .    .    .    .    .
scale-by-reciprocal                   0    .    .    .    .    .    .    .    .    .    .    -    .    .    .
sums-in-another-order           5.2e-06    .    .    .    .    .    .    .    .    .    .    .    .    .    .
prompt-not-echoed                     0    .    o    .    .    o    o    o    o    o    .    -    .    .    .
fed-token-printed                     0    o    o    o    o    o    o    o    o    o    o    -    o    o    o
bytes-unfiltered                      0    .    .    .    .    .    o    .    .    .    .    -    .    o    .
bos-does-not-stop                     0    .    .    .    .    .    .    .    .    .    .    -    .    .  #60
forced-one-short                      0    .    .    .    .    4   11    8    6    2    .    -    .    .    .
position-from-one                     0   53    5    9   15    5   24   13    7    8    .    9    0    3    0
temperature-zero-divides              0    X    X    .    .    .    X    X    X    X    .    -    X    X    X
"""

MEASURED = {
    name: (float(error), dict(zip(PROBES, cells, strict=True)))
    for name, error, *cells in (line.split() for line in TABLE.strip().splitlines())
}

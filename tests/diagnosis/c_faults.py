"""Faults in C: what each is in the sources of impls/c, as a replacement of text.

A row is (fault, file, what stands there, what its author would have written). The text must stand there exactly once,
so that a change of the program cannot quietly turn a fault into nothing. They are meant for builds with -DSTRICT, the
program's plain C.
"""

from __future__ import annotations

RUN, KERNELS = "run.c", "kernels.h"

_NORM = """    float scale = sum_of_squares / n;
    scale = 1.0f / sqrtf(scale + 1e-5f);
    for (int i = 0; i < n; i++) out[i] = weight[i] * (scale * x[i]);"""
_ROTATION = """            x[i] = a * c - b * s;
            x[i + 1] = a * s + b * c;"""
_PAIR = """            const float a = x[i], b = x[i + 1];
            x[i] = a * c - b * s;
            x[i + 1] = a * s + b * c;"""
_SILU = "value *= 1.0f / (1.0f + expf(-value));"
_GATED = "gate[i] = value * up[i];"
_ROOT = "const float root = sqrtf((float)head_dim);"
_HEAD = "kv_head = h / (c->n_heads / c->n_kv_heads), n = a->pos + 1;"
_TURN_Q = "        rotate(s->q, c->n_heads, s->cosines, s->sines, c->head_dim);\n"
_TURN_K = "        rotate(s->k, c->n_kv_heads, s->cosines, s->sines, c->head_dim);\n"
_FREQUENCY = "1.0f / powf(10000.0f, (float)(2 * j) / (float)c->head_dim)"
_ATTENTION_OUT = """        multiply_all(&(Multiplication){kernels, in, 1, {{s->delta, &layer->wo}}});
        add(s->x, s->delta, dim);"""
_FFN_OUT = """        multiply_all(&(Multiplication){kernels, in, 1, {{s->delta, &layer->w_down}}});
        add(s->x, s->delta, dim);"""
_WQ = 'layer->wq = read_matrix(reader, "wq", dim, dim, group);'
_WO = 'layer->wo = read_matrix(reader, "wo", dim, dim, group);'
_W2 = '    FOR_EACH_LAYER(model) layer->w_down = read_matrix(reader, "w2", dim, hidden_dim, group);\n'
_W3 = '    FOR_EACH_LAYER(model) layer->w_up = read_matrix(reader, "w3", hidden_dim, dim, group);\n'
_SCALES = "const unsigned char *scales = w->scales + sizeof(float) * (row_start / group);"
_LARGEST = "if (fabsf(values[i]) > largest) largest = fabsf(values[i]);"
_DRAW = """    *rng ^= *rng >> 12;
    *rng ^= *rng << 25;
    *rng ^= *rng >> 27;"""
_V0_NORMS = """    read_attn_norms(model, reader);
    read_attention_weights(model, reader);
    read_ffn_norms(model, reader);
    read_ffn_weights(model, reader);"""

_CACHES = """    return s->keys + ((size_t)layer * c->n_kv_heads + kv_head) * s->capacity * c->head_dim;
}

static float *values_of(const State *s, const Config *c, int layer, int kv_head) {
    return s->values + ((size_t)layer * c->n_kv_heads + kv_head) * s->capacity * s->value_width;"""


def _transposed(matrix: str) -> str:
    """A copy of a square matrix, its rows and columns exchanged."""
    return (
        f"{{ {matrix} float *w = malloc(sizeof(float) * (size_t)dim * dim);"
        " for (int i = 0; i < dim; i++) for (int j = 0; j < dim; j++)"
        f" w[(size_t)i * dim + j] = {matrix.partition(' ')[0]}.f32[(size_t)j * dim + i];"
        f" {matrix.partition(' ')[0]}.f32 = w; }}"
    )


def _norm(factor: str, out: str = "weight[i] * (scale * x[i])") -> str:
    return f"    const float scale = {factor};\n    for (int i = 0; i < n; i++) out[i] = {out};"


def _scaled(position: str) -> str:
    """Angles of q by another position than those of k."""
    return (
        "        { float *c2 = malloc(sizeof(float) * c->head_dim), *s2 = c2 + c->head_dim / 2;\n"
        f"          for (int j = 0; j < c->head_dim / 2; j++) {{ c2[j] = cosf({position} * s->frequencies[j]);"
        f" s2[j] = sinf({position} * s->frequencies[j]); }}\n"
        "          rotate(s->q, c->n_heads, c2, s2, c->head_dim); free(c2); }\n"
    )


SUBSTITUTIONS: tuple[tuple[str, str, str, str], ...] = (
    # ---- normalisation
    ("norm-sum", RUN, _NORM, _norm("1.0f / sqrtf(sum_of_squares + 1e-5f)")),
    ("norm-eps-missing", RUN, _NORM, _norm("1.0f / sqrtf(sum_of_squares / n)")),
    ("norm-eps-1e-6", RUN, _NORM, _norm("1.0f / sqrtf(sum_of_squares / n + 1e-6f)")),
    ("norm-eps-1e-3", RUN, _NORM, _norm("1.0f / sqrtf(sum_of_squares / n + 1e-3f)")),
    ("norm-eps-after-root", RUN, _NORM, _norm("1.0f / (sqrtf(sum_of_squares / n) + 1e-5f)")),
    ("norm-eps-before-mean", RUN, _NORM, _norm("1.0f / sqrtf((sum_of_squares + 1e-5f) / n)")),
    (
        "norm-centred",
        RUN,
        _NORM,
        "    float mean = 0, variance = 0; (void)sum_of_squares;\n"
        "    for (int i = 0; i < n; i++) mean += x[i] / n;\n"
        "    for (int i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / n;\n"
        "    for (int i = 0; i < n; i++) out[i] = weight[i] * (x[i] - mean) / sqrtf(variance + 1e-5f);",
    ),
    (
        "norm-gain-plus-one",
        RUN,
        _NORM,
        _norm("1.0f / sqrtf(sum_of_squares / n + 1e-5f)", "(1 + weight[i]) * (scale * x[i])"),
    ),
    (
        "norm-gain-ignored",
        RUN,
        _NORM,
        _norm("1.0f / sqrtf(sum_of_squares / n + 1e-5f)", "scale * x[i] + 0 * weight[i]"),
    ),
    (
        "norm-final-missing",
        RUN,
        "normed_input(s, model->final_norm, dim, group);",
        "as_input(s, s->x, dim, group);",
    ),
    (
        "norm-ffn-gain-of-attention",
        RUN,
        "normed_input(s, layer->ffn_norm, dim, group);",
        "normed_input(s, layer->attn_norm, dim, group);",
    ),
    # ---- rotation
    (
        "rope-half-split",
        RUN,
        _PAIR,
        "            const float a = x[i / 2], b = x[i / 2 + head_dim / 2];\n"
        "            x[i / 2] = a * c - b * s;\n"
        "            x[i / 2 + head_dim / 2] = a * s + b * c;",
    ),
    (
        "rope-backwards",
        RUN,
        _ROTATION,
        "            x[i] = a * c + b * s;\n            x[i + 1] = b * c - a * s;",
    ),
    ("rope-exponent-doubled", RUN, _FREQUENCY, "1.0f / powf(10000.0f, (float)(4 * j) / (float)c->head_dim)"),
    ("rope-exponent-halved", RUN, _FREQUENCY, "1.0f / powf(10000.0f, (float)j / (float)c->head_dim)"),
    ("rope-integer-division", RUN, _FREQUENCY, "1.0f / powf(10000.0f, (float)((int)(2 * j) / c->head_dim))"),
    ("rope-theta-1e6", RUN, _FREQUENCY, "1.0f / powf(1e6f, (float)(2 * j) / (float)c->head_dim)"),
    ("rope-k-missing", RUN, _TURN_K, ""),
    ("rope-q-missing", RUN, _TURN_Q, ""),
    ("rope-missing", RUN, _TURN_Q + _TURN_K, ""),
    (
        "rope-cached-before",
        RUN,
        _TURN_K + "        remember(s, c, l, pos);\n",
        "        remember(s, c, l, pos);\n" + _TURN_K,
    ),
    ("rope-on-v", RUN, _TURN_K, _TURN_K + _TURN_K.replace("s->k", "s->v")),
    ("rope-half-of-k", RUN, _TURN_K, _TURN_K.replace("c->n_kv_heads", "c->n_kv_heads / 2")),
    ("rope-q-one-ahead", RUN, _TURN_Q, _scaled("(pos + 1)")),
    (
        "rope-both-one-ahead",
        RUN,
        "const float angle = (float)pos * s->frequencies[j];",
        "const float angle = (float)(pos + 1) * s->frequencies[j];",
    ),
    # ---- attention and cache
    ("attention-unscaled", KERNELS, _ROOT, "const float root = 1;"),
    ("attention-scale-no-root", KERNELS, _ROOT, "const float root = (float)head_dim;"),
    ("heads-modulo", RUN, _HEAD, "kv_head = h % c->n_kv_heads, n = a->pos + 1;"),
    ("heads-first", RUN, _HEAD, "kv_head = 0, n = a->pos + 1;"),
    ("heads-by-kv-heads", RUN, _HEAD, "kv_head = h / c->n_kv_heads, n = a->pos + 1;"),
    (
        "mask-excludes-self-but-first",
        RUN,
        _HEAD,
        "kv_head = h / (c->n_heads / c->n_kv_heads), n = a->pos > 0 ? a->pos : 1;",
    ),
    (
        "softmax-unnormalised",
        RUN,
        "(a->group == 0 ? s->kernels->softmax : softmax)(scores, n);",
        "{ float top = scores[0]; for (int t = 1; t < n; t++) if (scores[t] > top) top = scores[t];"
        " for (int t = 0; t < n; t++) scores[t] = expf(scores[t] - top); }",
    ),
    (
        "softmax-overflows",
        RUN,
        "(a->group == 0 ? s->kernels->softmax : softmax)(scores, n);",
        "{ float sum = 0; for (int t = 0; t < n; t++) sum += scores[t] = expf(scores[t]);"
        " for (int t = 0; t < n; t++) scores[t] /= sum; }",
    ),
    (
        "attention-accumulates",
        KERNELS,
        "    memset(out, 0, sizeof(float) * (size_t)head_dim);\n",
        "",
    ),
    (
        "cache-without-layers",
        RUN,
        _CACHES,
        _CACHES.replace("(size_t)layer *", "(size_t)(0 * layer) *"),
    ),
    # ---- feed-forward block
    ("ffn-relu", KERNELS, _SILU, "value = value > 0 ? value : 0;"),
    (
        "ffn-gelu",
        KERNELS,
        _SILU,
        "value = 0.5f * value * (1 + tanhf(0.79788456f * (value + 0.044715f * value * value * value)));",
    ),
    ("ffn-sigmoid", KERNELS, _SILU, "value = 1.0f / (1.0f + expf(-value));"),
    ("ffn-silu-sign", KERNELS, _SILU, "value *= 1.0f / (1.0f + expf(value));"),
    ("ffn-no-product", KERNELS, _GATED, "gate[i] = value + 0 * up[i];"),
    ("ffn-gate-up-swapped", KERNELS, "float value = gate[i];", "float value = up[i]; const float *const up = gate;"),
    # ---- wiring
    ("wq-transposed", RUN, _WQ, _transposed(_WQ)),
    ("wo-transposed", RUN, _WO, _transposed(_WO)),
    ("wk-wv-swapped", RUN, "{s->k, &layer->wk}, {s->v, &layer->wv}", "{s->k, &layer->wv}, {s->v, &layer->wk}"),
    (
        "attention-residual-missing",
        RUN,
        _ATTENTION_OUT,
        _ATTENTION_OUT.replace("add(s->x, s->delta, dim);", "memcpy(s->x, s->delta, sizeof(float) * dim);"),
    ),
    (
        "ffn-residual-missing",
        RUN,
        _FFN_OUT,
        _FFN_OUT.replace("add(s->x, s->delta, dim);", "memcpy(s->x, s->delta, sizeof(float) * dim);"),
    ),
    (
        "last-layer-skipped",
        RUN,
        "for (int l = 0; l < c->n_layers; l++) {",
        "for (int l = 0; l < c->n_layers - 1; l++) {",
    ),
    (
        "layers-reversed",
        RUN,
        "const Layer *layer = &model->layers[l];",
        "const Layer *layer = &model->layers[c->n_layers - 1 - l];",
    ),
    (
        "embedding-scaled",
        RUN,
        "    copy_row(s->x, &model->tok_embedding, token);\n",
        "    copy_row(s->x, &model->tok_embedding, token);\n"
        "    for (int i = 0; i < dim; i++) s->x[i] *= sqrtf((float)dim);\n",
    ),
    # ---- loading
    (
        "v0-ffn-norm-second",
        RUN,
        _V0_NORMS,
        "    read_attn_norms(model, reader);\n    read_ffn_norms(model, reader);\n"
        "    read_attention_weights(model, reader);\n    read_ffn_weights(model, reader);",
    ),
    ("v0-w3-before-w2", RUN, _W2 + _W3, _W3 + _W2),
    # ---- int8
    (
        "int8-truncated",
        KERNELS,
        "const float code = roundf(values[i] / scale);",
        "const float code = truncf(values[i] / scale);",
    ),
    ("int8-over-128", KERNELS, "const float scale = largest / 127.0f;", "const float scale = largest / 128.0f;"),
    ("int8-over-127.5", KERNELS, "const float scale = largest / 127.0f;", "const float scale = largest / 127.5f;"),
    ("int8-scale-ignores-row", KERNELS, _SCALES, "const unsigned char *scales = w->scales;"),
    ("int8-sum-in-16-bits", KERNELS, "int32_t group_sum = 0;", "int16_t group_sum = 0;"),
    # ---- sampler
    (
        "rng-shifts",
        RUN,
        _DRAW,
        "    *rng ^= *rng << 13;\n    *rng ^= *rng >> 7;\n    *rng ^= *rng << 17;",
    ),
    (
        "rng-no-multiplier",
        RUN,
        "(uint32_t)((*rng * 0x2545F4914F6CDD1DULL) >> 32)",
        "(uint32_t)(*rng >> 32)",
    ),
    (
        "rng-low-bits",
        RUN,
        "(uint32_t)((*rng * 0x2545F4914F6CDD1DULL) >> 32)",
        "(uint32_t)(*rng * 0x2545F4914F6CDD1DULL)",
    ),
    ("topp-unscaled", RUN, "const float target = coin * mass;", "const float target = coin;"),
    ("topp-scaled-by-topp", RUN, "const float target = coin * mass;", "const float target = coin * topp;"),
    (
        "topp-cutoff-undivided",
        RUN,
        "const float cutoff = (1.0f - topp) / (float)(n - 1);",
        "const float cutoff = 1.0f - topp;",
    ),
    ("topp-at-least", RUN, "if (mass > topp) break;", "if (mass >= topp) break;"),
    ("temperature-multiplied", RUN, "logits[i] /= sampler->temperature;", "logits[i] *= sampler->temperature;"),
    # ---- loop
    ("stops-at-eos-too", RUN, "if (next == BOS) break;", "if (next == BOS || next == 2) break;"),
    ("bos-does-not-stop", RUN, "if (next == BOS) break;", ""),
    (
        "forced-one-short",
        RUN,
        "const int next = pos + 1 < forced.count ?",
        "const int next = pos + 2 < forced.count ?",
    ),
)

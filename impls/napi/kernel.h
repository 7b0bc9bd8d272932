/* The kernel's contract. Arguments are taken on trust: binding.c checks them. No out overlaps what is read. */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The attention of one layer: n_heads query heads read n_kv_heads key/value heads of head_dim elements, of which there
 * is room for capacity positions, a multiple of kernel_lanes(); count of them are filled. Shapes, row-major:
 *
 *     queries   (n_heads, head_dim)
 *     keys      (n_kv_heads, capacity / lanes, head_dim, lanes): positions are innermost
 *     values    (n_kv_heads, capacity, head_dim rounded up to whole lanes)
 *     scores    (n_heads, capacity), of which count columns mean something */
typedef struct {
    size_t n_heads, n_kv_heads, head_dim, capacity, count;
} Heads;

/* Elements from one value of a head to the next: head_dim in whole lanes. */
size_t value_width(const Heads *heads);

/* The instructions used on this machine, as impls/c names them: "strict", "avx512". NULL: LLAMA_PATH asks for others. */
const char *kernel_instructions(void);
size_t kernel_lanes(void);

/* out[i] = sum over j < cols of weights[i * cols + j] * x[j], for i < rows; any order of summing. */
void matmul(float *out, const float *weights, const float *x, size_t rows, size_t cols);

/* int8 codes with one scale per group of the flat matrix, at most 65536 codes, so that int32 holds a group's sum:
 *
 *     out[i] = sum over g < cols / group, in order, each operation rounded to float32, of
 *              (sum over the group of codes * x_codes) * scales[i * cols / group + g] * x_scales[g]
 *
 * False: out of memory. */
bool matmul_q8(float *out, const int8_t *codes, const float *scales, const int8_t *x_codes, const float *x_scales,
               size_t rows, size_t cols, size_t group);

/* x in int8, one scale per whole group. False: out of memory. */
bool quantize_q8(int8_t *codes, float *scales, const float *x, size_t n, size_t group);

/* scores = q . k / sqrt(head_dim), each sum from left to right. */
void score_heads(float *scores, const float *queries, const float *keys, const Heads *heads);

/* In place, in any order. */
void softmax_heads(float *scores, const Heads *heads);

/* out (n_heads, head_dim) = the values of the filled positions, times their weights, added in the order of positions. */
void mix_heads(float *out, const float *weights, const float *values, const Heads *heads);

/* gate becomes silu(gate) * up; any exponential that is right to float32. */
void swiglu_values(float *gate, const float *up, size_t n);

/* out = weight * x / sqrt(mean of squares of x + 1e-5); in_order: the squares are summed from left to right. */
void norm_values(float *out, const float *x, const float *weight, size_t n, bool in_order);

/* Cosines and sines of n frequencies, each times the position, in radians. */
void set_angles(float *cosines, float *sines, const float *frequencies, size_t n, size_t position);

/* Turn each adjacent pair of every head by the angle of its place within the head. */
void rotate_heads(float *x, size_t n_heads, const float *cosines, const float *sines, size_t head_dim);

/* x += delta. */
void add_values(float *x, const float *delta, size_t n);

/* Put key and value (n_kv_heads, head_dim) into the caches of heads as its position count - 1. */
void remember_heads(float *keys, float *values, const float *key, const float *value, const Heads *heads);

/* The first of the largest of n values, n > 0. */
size_t index_of_largest(const float *x, size_t n);

#endif

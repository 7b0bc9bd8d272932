/* The kernel's contract. Arguments are taken on trust: binding.c checks them. out overlaps nothing. */
#ifndef KERNEL_H
#define KERNEL_H

#include <stddef.h>
#include <stdint.h>

/* out[i] = sum over j < cols of weights[i * cols + j] * x[j], for i < rows; any order of summing. */
void matmul(float *out, const float *weights, const float *x, size_t rows, size_t cols);

/* int8 codes with one scale per group of the flat matrix, at most 65536 codes, so that int32 holds a group's sum:
 *
 *     out[i] = sum over g < cols / group, in order, each operation rounded to float32, of
 *              (sum over the group of codes * x_codes) * scales[i * cols / group + g] * x_scales[g] */
void matmul_q8(float *out, const int8_t *codes, const float *scales, const int8_t *x_codes, const float *x_scales,
               size_t rows, size_t cols, size_t group);

/* The instructions used on this machine: "C", "SSE2", "AVX2", "NEON". */
const char *kernel_instructions(void);

#endif

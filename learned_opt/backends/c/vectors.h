/* Vectors of floats as wide as the processor's registers, with GCC's operators on them.
 *
 * Loops over floats, with `omp simd`, are simpler and mostly as fast. But compilers turn the smaller
 * of two floats, which may be no numbers, into a comparison and a selection in place of one
 * instruction. */
#ifndef LEARNED_OPT_VECTORS_H
#define LEARNED_OPT_VECTORS_H

#include <stdint.h>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

/* A loop that is written out early, so that arrays which it runs over stay in registers. */
#define EACH(k, count) _Pragma("GCC unroll 16") for (int k = 0; k < (count); k++)

typedef float vector __attribute__((vector_size(4 * LANES)));
typedef uint32_t vector_bits __attribute__((vector_size(4 * LANES)));

static inline vector every(float x) { return (vector){0} + x; }

/* The smaller of each two; y where one is no number. */
static inline vector lesser(vector x, vector y) {
#if defined(__AVX512F__)
    return (vector)_mm512_min_ps((__m512)x, (__m512)y);
#elif defined(__AVX__)
    return (vector)_mm256_min_ps((__m256)x, (__m256)y);
#else
    vector_bits is_less = (vector_bits)(x < y);
    return (vector)((is_less & (vector_bits)x) | (~is_less & (vector_bits)y));
#endif
}

/* The larger of each two; y where one is no number. */
static inline vector greater(vector x, vector y) {
#if defined(__AVX512F__)
    return (vector)_mm512_max_ps((__m512)x, (__m512)y);
#elif defined(__AVX__)
    return (vector)_mm256_max_ps((__m256)x, (__m256)y);
#else
    vector_bits is_more = (vector_bits)(x > y);
    return (vector)((is_more & (vector_bits)x) | (~is_more & (vector_bits)y));
#endif
}

/* The larger of each two whole numbers. */
static inline vector_bits greater_bits(vector_bits x, vector_bits y) {
#if defined(__AVX512F__)
    return (vector_bits)_mm512_max_epu32((__m512i)x, (__m512i)y);
#elif defined(__AVX2__)
    return (vector_bits)_mm256_max_epu32((__m256i)x, (__m256i)y);
#else
    vector_bits is_more = (vector_bits)(x > y);
    return (is_more & x) | (~is_more & y);
#endif
}

/* Clamped to +-bound; what is no number stays none. */
static inline vector clamped(vector x, float bound) {
    return greater(every(-bound), lesser(every(bound), x));
}

#endif

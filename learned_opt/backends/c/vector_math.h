/* Transcendental functions in float32, each within 3 units in the last place.
 *
 * They have no branches and call no library, so that compilers turn a loop over them into vector
 * instructions. Nothing here depends on the rounding mode or sets a flag. */
#ifndef LEARNED_OPT_VECTOR_MATH_H
#define LEARNED_OPT_VECTOR_MATH_H

#include <stdint.h>
#include <string.h>

static inline float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static inline float magnitude(float x) { return from_bits(to_bits(x) & 0x7fffffffu); }

static inline float smaller(float x, float y) { return x < y ? x : y; }

static inline float larger(float x, float y) { return x > y ? x : y; }

static inline float within(float x, float bound) { return larger(-bound, smaller(bound, x)); }

/* log 2 in two parts; whole numbers up to 128 times the first are exact. */
#define LOG_2_HIGH 0.693359375f
#define LOG_2_LOW -2.12194440e-4f

/* Split x = n log 2 + r with a whole n and |r| <= log(2) / 2, for |x| <= 87.
 *
 * Returns e^r - 1. The polynomial was fitted to an error of 5e-9 of e^r. In `shift` goes n as what
 * it adds to the bits of a float to multiply that by 2^n. */
static inline float split_exponential(float x, uint32_t *shift) {
    float rounded = x * 1.442695041f + 12582912.0f; /* 1.5 * 2^23: the last bit is worth 1 */
    float n = rounded - 12582912.0f;
    *shift = to_bits(rounded) << 23;
    float r = (x - n * LOG_2_HIGH) - n * LOG_2_LOW;
    float p = 0.0013814459f;
    p = p * r + 0.008368781f;
    p = p * r + 0.041668393f;
    p = p * r + 0.1666652f;
    p = p * r + 0.49999994f;
    return (p * r) * r + r;
}

/* e^x; beyond +-87 as there. */
static inline float exponential(float x) {
    uint32_t shift;
    float less_one = split_exponential(within(x, 87.0f), &shift);
    return from_bits(to_bits(less_one + 1.0f) + shift);
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* The hyperbolic tangent as a fraction, so that other divisions can join it; the denominator is
 * between 1 and 2. By e^(-2|x|) - 1, which keeps its digits near zero. */
static inline float tangent_fraction(float x, float *denominator) {
    uint32_t shift;
    float less_one = split_exponential(larger(-87.0f, -2.0f * magnitude(x)), &shift);
    float power = from_bits(0x3f800000u + shift);
    float t = power * less_one + (power - 1.0f); /* negative */
    *denominator = 2.0f + t;
    return from_bits((to_bits(t) & 0x7fffffffu) | (to_bits(x) & 0x80000000u));
}

static inline float hyperbolic_tangent(float x) {
    float denominator, numerator = tangent_fraction(x, &denominator);
    return numerator / denominator;
}

/* The natural logarithm of a positive normal number. */
static inline float logarithm(float x) {
    /* x = 2^n (1 + f) with 1 + f between sqrt(1/2) and sqrt(2). */
    uint32_t bits = to_bits(x);
    int32_t n = (int32_t)(bits - 0x3f3504f3u) >> 23;
    float f = from_bits(bits - ((uint32_t)n << 23)) - 1.0f, whole = (float)n;
    float p = -0.07634231f; /* fitted to an error of 8e-9 of log(1 + f) */
    p = p * f + 0.12761469f;
    p = p * f - 0.13160233f;
    p = p * f + 0.14201775f;
    p = p * f - 0.16623354f;
    p = p * f + 0.20001227f;
    p = p * f - 0.25000823f;
    p = p * f + 0.3333333f;
    float square = f * f;
    float rest = (f * square) * p + whole * LOG_2_LOW - 0.5f * square;
    return (f + rest) + whole * LOG_2_HIGH;
}

#endif

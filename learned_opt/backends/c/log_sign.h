/* The inputs of the LSTM rules of papers; see `learned_opt/rules/parts/features.py`. */
#ifndef LEARNED_OPT_LOG_SIGN_H
#define LEARNED_OPT_LOG_SIGN_H

#include <math.h>

#include "lstm.h"
#include "vector_math.h"

/* (log |x| / p, sign x) where |x| >= e^-p, else (-1, e^p x). */
static inline void log_sign(const float *x, float p, float *first, float *second) {
    float threshold = expf(-p), slope = expf(p);
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        float size = magnitude(x[k]);
        int is_large = size >= threshold;
        float logs = logarithm(is_large ? size : 1.0f) / p;
        float sign = x[k] > 0 ? 1.0f : -1.0f;
        first[k] = is_large ? logs : -1.0f;
        second[k] = is_large ? sign : x[k] * slope;
    }
}

/* The recent size of the gradient, and the share of the update that it lets pass. */
static inline void recent_size(const float *g, float *recent, float *known, float decay,
                               float smallest) {
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        recent[k] = larger(magnitude(g[k]), decay * recent[k]);
        known[k] = smaller(recent[k] / smallest, 1.0f);
    }
}

#endif

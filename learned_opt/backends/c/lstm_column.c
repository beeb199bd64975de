#include "lstm_column.h"

#include <string.h>

#include "lstm.h"
#include "vector_math.h"

/* Columns whose sums stay in registers: four vectors. */
#define COLUMNS (4 * LANES)

static void add_columns(const float *weight, const float *bias, const float *seen, long count,
                        long width, float *sums) {
    vector total[4], own[4];
    memcpy(total, bias, sizeof total);
    for (long k = 0; k < count; k++) {
        memcpy(own, weight + k * width, sizeof own);
        for (int v = 0; v < 4; v++) total[v] += seen[k] * own[v];
    }
    memcpy(sums, total, sizeof total);
}

/* sums = bias + seen weight. */
static void add_inputs(const float *weight, const float *bias, const float *seen, long count,
                       long width, float *sums) {
    long first = 0;
    for (; first + COLUMNS <= width; first += COLUMNS)
        add_columns(weight + first, bias + first, seen, count, width, sums + first);
    for (long j = first; j < width; j++) sums[j] = bias[j];
    for (long k = 0; k < count; k++)
        for (long j = first; j < width; j++) sums[j] += seen[k] * weight[k * width + j];
}

void step_lstm_column(long inputs, long units, const float *weight, const float *bias,
                      const float *seen, float *restrict h, float *restrict c,
                      float *restrict sums) {
    add_inputs(weight, bias, seen, inputs + units, 4 * units, sums);
    const float *to_i = sums, *to_f = sums + units, *to_o = sums + 2 * units, *to_z = to_o + units;
    /* As in `step_lstm_cell`: a gate times a tangent is one division. */
#pragma omp simd
    for (long u = 0; u < units; u++) {
        float i = 1.0f + exponential(-to_i[u]), f = 1.0f + exponential(-to_f[u]);
        float below, candidate = tangent_fraction(to_z[u], &below);
        c[u] = c[u] / f + candidate / (i * below);
        float o = 1.0f + exponential(-to_o[u]), under;
        float numerator = tangent_fraction(c[u], &under);
        h[u] = numerator / (o * under);
    }
}

#include "lstm.h"

#include <stdlib.h>
#include <string.h>

#include "vector_math.h"

typedef float vector __attribute__((vector_size(4 * LANES)));

int make_lstm_cell(lstm_cell *cell, long inputs, long units, const float *weight,
                   const float *bias) {
    long seen = inputs + units;
    cell->inputs = inputs;
    cell->units = units;
    cell->packed = malloc(units * (1 + seen) * 4 * sizeof(float));
    if (!cell->packed) return -1;
    float *to = cell->packed;
    for (long unit = 0; unit < units; unit++)
        for (long k = -1; k < seen; k++) {
            const float *from = k < 0 ? bias : weight + k * 4 * units;
            for (long gate = 0; gate < 4; gate++) *to++ = from[gate * units + unit];
        }
    return 0;
}

void free_lstm_cell(lstm_cell *cell) { free(cell->packed); }

/* The four sums of one unit. They stay in registers: 16 of them. */
static inline void gate_sums(const float *weight, const row *seen, long count, row *sums) {
    vector total[4][VECTORS];
    for (int gate = 0; gate < 4; gate++)
        for (int v = 0; v < VECTORS; v++) total[gate][v] = (vector){0} + weight[gate];
    for (long k = 0; k < count; k++) {
        weight += 4;
        const vector *x = (const vector *)seen[k];
        for (int gate = 0; gate < 4; gate++)
            for (int v = 0; v < VECTORS; v++) total[gate][v] += weight[gate] * x[v];
    }
    for (int gate = 0; gate < 4; gate++)
        for (int v = 0; v < VECTORS; v++) ((vector *)sums[gate])[v] = total[gate][v];
}

void lstm_gate_sums(const lstm_cell *cell, long unit, const row *seen, row *sums) {
    long count = cell->inputs + cell->units;
    gate_sums(cell->packed + unit * (1 + count) * 4, seen, count, sums);
}

void lstm_four_sums(const float *weight, const row *rows, long count, row *sums) {
    gate_sums(weight, rows, count, sums);
}

/* Units that are stepped together. A gate and its tangent are long chains of operations: one unit
 * after the other, or one loop for both c and h, a processor would wait for the end of each. */
#define TOGETHER 12

void step_lstm_cell(const lstm_cell *cell, const row *seen, row *h, row *c) {
    long count = cell->inputs + cell->units;
    row sums[TOGETHER][4];
    for (long first = 0; first < cell->units; first += TOGETHER) {
        long units = cell->units - first < TOGETHER ? cell->units - first : TOGETHER;
        for (long u = 0; u < units; u++)
            gate_sums(cell->packed + (first + u) * (1 + count) * 4, seen, count, sums[u]);
        for (long u = 0; u < units; u++) {
            const row *sum = (const row *)sums[u];
            float *new_c = c[first + u];
#pragma omp simd
            for (int k = 0; k < BLOCK; k++) {
                /* A gate times a tangent is one division: products of denominators stay below
                 * 2e38. */
                float i = 1.0f + exponential(-sum[0][k]), f = 1.0f + exponential(-sum[1][k]);
                float below, candidate = tangent_fraction(sum[3][k], &below);
                new_c[k] = new_c[k] / f + candidate / (i * below);
            }
        }
        for (long u = 0; u < units; u++) {
            const float *sum = sums[u][2], *new_c = c[first + u];
            float *new_h = h[first + u];
#pragma omp simd
            for (int k = 0; k < BLOCK; k++) {
                float o = 1.0f + exponential(-sum[k]), under;
                float numerator = tangent_fraction(new_c[k], &under);
                new_h[k] = numerator / (o * under);
            }
        }
    }
}

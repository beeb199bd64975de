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

void step_lstm_cell(const lstm_cell *cell, const row *seen, row *h, row *c) {
    long count = cell->inputs + cell->units;
    for (long unit = 0; unit < cell->units; unit++) {
        row sums[4];
        gate_sums(cell->packed + unit * (1 + count) * 4, seen, count, sums);
        float *new_h = h[unit], *new_c = c[unit];
#pragma omp simd
        for (int k = 0; k < BLOCK; k++) {
            /* A gate times a tangent is one division: products of denominators stay below 2e38. */
            float i = 1.0f + exponential(-sums[0][k]), f = 1.0f + exponential(-sums[1][k]);
            float o = 1.0f + exponential(-sums[2][k]), below, under;
            float candidate = tangent_fraction(sums[3][k], &below);
            float memory = new_c[k] / f + candidate / (i * below);
            new_c[k] = memory;
            new_h[k] = tangent_fraction(memory, &under) / (o * under);
        }
    }
}

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
            float i = sigmoid(sums[0][k]), f = sigmoid(sums[1][k]), o = sigmoid(sums[2][k]);
            float memory = f * new_c[k] + i * hyperbolic_tangent(sums[3][k]);
            new_c[k] = memory;
            new_h[k] = o * hyperbolic_tangent(memory);
        }
    }
}

void read_row(float *to, const float *from, long count) {
    /* The next block of each row: they are more streams than a processor follows by itself. */
    for (long line = 0; line < BLOCK; line += 16) __builtin_prefetch(from + 64 + line, 1);
    if (count == BLOCK) {
        memcpy(to, from, BLOCK * sizeof(float));
        return;
    }
    memcpy(to, from, count * sizeof(float));
    memset(to + count, 0, (BLOCK - count) * sizeof(float));
}

void mark_nonzero(unsigned *active, const float *values) {
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) active[k] |= values[k] != 0 ? ~0u : 0u;
}

void write_row(float *to, const float *from, const unsigned *active, long count) {
#pragma omp simd
    for (long k = 0; k < count; k++) to[k] = from_bits(to_bits(from[k]) & active[k]);
}

/* A long short-term memory cell for blocks of coordinates. */
#ifndef LEARNED_OPT_LSTM_H
#define LEARNED_OPT_LSTM_H

#include <string.h>

#include "vector_math.h"
#include "vectors.h"

/* Coordinates of a block: as many vectors as let the four sums of each stay in registers. A block
 * of each number lies in a row, [BLOCK]. */
#if defined(__AVX512F__)
#define VECTORS 4
#else
#define VECTORS 2
#endif
#define BLOCK (LANES * VECTORS)

typedef float row[BLOCK] __attribute__((aligned(4 * LANES)));

typedef struct {
    long inputs, units;
    /* [units, 1 + inputs + units, 4]: for each unit the bias and the weights of its gates i, f, o
     * and of its candidate z side by side, so scaled that 2^sum is the e^-x of a sigmoid and the
     * e^2x of a tangent. */
    float *packed;
} lstm_cell;

/* Take weights [inputs + units, 4 units] and bias [4 units], columns in the order i, f, o, z, as
 * the Python class has them. Returns 0, or -1 if there is no memory. */
int make_lstm_cell(lstm_cell *cell, long inputs, long units, const float *weight,
                   const float *bias);

void free_lstm_cell(lstm_cell *cell);

/* Step a block.
 *
 * seen: [inputs + units] rows, the inputs and the last h.
 * h, c: [units] rows, where the new h goes, and the last c, which becomes the new one. */
void step_lstm_cell(const lstm_cell *cell, const row *seen, row *h, row *c);

/* The gates i, f, o of one unit and its candidate z: 4 rows. */
void lstm_gates(const lstm_cell *cell, long unit, const row *seen, row *gates);

/* Four sums at once over count rows; weight [1 + count, 4], the first four are added. */
void lstm_four_sums(const float *weight, const row *rows, long count, row *sums);

/* Read count values to a row, and fill it up with zeros. */
static inline void read_row(float *to, const float *from, long count) {
    /* The next block of each row: they are more streams than a processor follows by itself. */
    for (long line = 0; line < BLOCK; line += 16) __builtin_prefetch(from + BLOCK + line, 1);
    if (count == BLOCK) {
        memcpy(to, from, BLOCK * sizeof(float));
        return;
    }
    memcpy(to, from, count * sizeof(float));
    memset(to + count, 0, (BLOCK - count) * sizeof(float));
}

/* Mark, with all bits, the coordinates whose value is not zero. */
static inline void mark_nonzero(unsigned *active, const float *values) {
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) active[k] |= values[k] != 0 ? ~0u : 0u;
}

/* Write the first count values of a row; with zeros where `active` is zero. */
static inline void write_row(float *to, const float *from, const unsigned *active, long count) {
    const vector *values = (const vector *)from;
    const vector_bits *mask = (const vector_bits *)active;
    vector_bits kept[VECTORS];
    for (int v = 0; v < VECTORS; v++) kept[v] = (vector_bits)values[v] & mask[v];
    if (count == BLOCK)
        for (int v = 0; v < VECTORS; v++) memcpy(to + v * LANES, &kept[v], sizeof kept[v]);
    else
        memcpy(to, kept, count * sizeof(float));
}

#endif

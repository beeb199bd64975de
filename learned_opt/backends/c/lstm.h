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

/* Units whose weights lie side by side, so that they are stepped together. */
#if defined(__AVX512F__)
#define TOGETHER 2
#else
#define TOGETHER 1
#endif

typedef struct {
    long inputs, units;
    /* [units / TOGETHER, 1 + inputs + units, 4, TOGETHER]: for each group of units the bias and the
     * weights of its gates i, f, o and of its candidate z side by side, so scaled that 2^sum is the
     * e^-x of a sigmoid and the e^2x of a tangent. What a last group lacks is 0. */
    float *packed;
} lstm_cell;

/* Where h and c of a block lie: [units, stride], of which the first `count` are of the block. */
typedef struct {
    const float *last_h, *last_c;
    float *h, *c; /* get the new ones; may be the last ones */
    long stride, count, ahead; /* the latter as in `read_row` */
    const unsigned *active; /* [BLOCK], aligned: new h and c are 0 where it is 0; else all bits */
} lstm_memory;

/* Take weights [inputs + units, 4 units] and bias [4 units], columns in the order i, f, o, z, as
 * the Python class has them. Returns 0, or -1 if there is no memory. */
int make_lstm_cell(lstm_cell *cell, long inputs, long units, const float *weight,
                   const float *bias);

void free_lstm_cell(lstm_cell *cell);

/* Step a block.
 *
 * skip: inputs, the first ones, that are 0 in the whole block.
 * seen: [inputs + units] rows: the inputs, and room for the last h.
 * h: [units] rows that get the new h, of idle coordinates, too. */
void step_lstm_cell(const lstm_cell *cell, long skip, row *seen, const lstm_memory *memory, row *h);

/* The gates i, f, o of one unit and its candidate z: 4 rows. */
void lstm_gates(const lstm_cell *cell, long unit, const row *seen, row *gates);

/* Four sums at once over count rows; weight [1 + count, 4], the first four are added. */
void lstm_four_sums(const float *weight, const row *rows, long count, row *sums);

/* Ask for a line of the next block, and of what lies farther ahead. Rows are more streams than a
 * processor follows by itself. */
static inline void ask(const float *from, long ahead) {
    __builtin_prefetch(from + BLOCK, 1);
    __builtin_prefetch(from + ahead, 0, 2); /* for the second cache: it is needed later */
}

static inline void ask_row(const float *from, long ahead) {
    for (long line = 0; line < BLOCK; line += 16) ask(from + line, ahead);
}

/* Copy count values to a row, and fill it up with zeros. */
static inline void copy_row(float *to, const float *from, long count) {
    if (count == BLOCK) {
        memcpy(to, from, BLOCK * sizeof(float));
        return;
    }
    memcpy(to, from, count * sizeof(float));
    memset(to + count, 0, (BLOCK - count) * sizeof(float));
}

/* The same, and ask for the next ones. A burst of such requests waits for itself, so rows of h and c
 * are asked for between sums. */
static inline void read_row(float *to, const float *from, long count, long ahead) {
    ask_row(from, ahead);
    copy_row(to, from, count);
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

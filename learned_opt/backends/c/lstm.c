#include "lstm.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

#define PER_LOG_2 1.4426950408889634

/* Scaled, and still finite where it was. */
static float scaled(float weight, double factor) {
    double value = factor * weight;
    return isfinite(weight) && fabs(value) > FLT_MAX ? copysignf(FLT_MAX, (float)factor * weight)
                                                     : (float)value;
}

static float *unit_weights(const lstm_cell *cell, long unit) {
    long rows = 1 + cell->inputs + cell->units;
    return cell->packed + (unit / TOGETHER * rows * 4 * TOGETHER + unit % TOGETHER);
}

int make_lstm_cell(lstm_cell *cell, long inputs, long units, const float *weight,
                   const float *bias) {
    const double factor[4] = {-PER_LOG_2, -PER_LOG_2, -PER_LOG_2, 2 * PER_LOG_2};
    long seen = inputs + units;
    cell->inputs = inputs;
    cell->units = units;
    long groups = (units + TOGETHER - 1) / TOGETHER;
    cell->packed = calloc(groups * (1 + seen) * 4 * TOGETHER, sizeof(float));
    if (!cell->packed) return -1;
    for (long unit = 0; unit < units; unit++)
        for (long k = -1; k < seen; k++) {
            const float *from = k < 0 ? bias : weight + k * 4 * units;
            float *to = unit_weights(cell, unit) + (1 + k) * 4 * TOGETHER;
            for (long gate = 0; gate < 4; gate++)
                to[gate * TOGETHER] = scaled(from[gate * units + unit], factor[gate]);
        }
    return 0;
}

void free_lstm_cell(lstm_cell *cell) { free(cell->packed); }

/* The four sums of one unit. They stay in registers: 16 of them. The weights of its gates lie `apart`
 * floats from each other. */
static inline void gate_sums(const float *weight, const long apart, long skip, const row *seen,
                             long count, row *sums) {
    vector total[4][VECTORS];
    EACH(gate, 4) EACH(v, VECTORS) total[gate][v] = every(weight[gate * apart]);
    weight += 4 * apart * skip;
    for (long k = skip; k < count; k++) {
        weight += 4 * apart;
        const vector *x = (const vector *)seen[k];
        EACH(gate, 4) EACH(v, VECTORS) total[gate][v] += weight[gate * apart] * x[v];
    }
    EACH(gate, 4) EACH(v, VECTORS)((vector *)sums[gate])[v] = total[gate][v];
}

void lstm_four_sums(const float *weight, const row *rows, long count, row *sums) {
    gate_sums(weight, 1, 0, rows, count, sums);
}

/* Vectors that are computed side by side. A power of two is a long chain of operations: with one
 * after the other, a processor would wait for the end of each. */
#define PAIR 2

/* A sigmoid is 1 / (1 + 2^sum): replace the sums of `kinds` gates, PAIR vectors of each, by the
 * denominators. Those of the last kind are of a tangent, (2^sum - 1) / (2^sum + 1): replace them by
 * numerators, which keep their digits near zero, and write the denominators.
 *
 * Beyond +-126 a gate is as there; beyond +-26 a tangent is +-1. Products of denominators may be
 * infinite, their inverse is zero then. */
static inline void split_gates(const int kinds, vector *x, vector *below) {
    const int count = PAIR * kinds, gates = count - PAIR;
    vector rounded[4 * PAIR], p[4 * PAIR];
    EACH(k, gates) x[k] = clamped(x[k], 126.0f);
    EACH(k, PAIR) x[gates + k] = clamped(x[gates + k], 26.0f);
    /* A whole number and a rest of at most 1/2: 1.5 * 2^23 has a last bit that is worth 1. */
    EACH(k, count) rounded[k] = x[k] + 12582912.0f;
    EACH(k, count) x[k] -= rounded[k] - 12582912.0f;
    /* 2^x - 1; the polynomial was fitted to an error of 2e-8 of that. */
    EACH(k, count) p[k] = 1.5403512e-4f * x[k] + 0.0013390736f;
    EACH(k, count) p[k] = p[k] * x[k] + 0.009618238f;
    EACH(k, count) p[k] = p[k] * x[k] + 0.055503573f;
    EACH(k, count) p[k] = p[k] * x[k] + 0.24022649f;
    EACH(k, count) p[k] = p[k] * x[k] + 0.6931472f;
    EACH(k, count) p[k] = p[k] * x[k];
    /* The whole number, added to the bits of a float, multiplies it by that power of two. */
    EACH(k, gates)
    x[k] = 1.0f + (vector)((vector_bits)(p[k] + 1.0f) + ((vector_bits)rounded[k] << 23));
    EACH(k, PAIR) {
        vector power = (vector)(0x3f800000u + ((vector_bits)rounded[gates + k] << 23));
        x[gates + k] = power * p[gates + k] + (power - 1.0f);
        below[k] = 2.0f + x[gates + k];
    }
}

void lstm_gates(const lstm_cell *cell, long unit, const row *seen, row *gates) {
    long count = cell->inputs + cell->units;
    gate_sums(unit_weights(cell, unit), TOGETHER, 0, seen, count, gates);
    vector x[4 * PAIR], below[PAIR], *at = (vector *)gates;
    for (int v = 0; v < VECTORS; v += PAIR) {
        EACH(gate, 4) EACH(k, PAIR) x[PAIR * gate + k] = at[VECTORS * gate + v + k];
        split_gates(4, x, below);
        EACH(gate, 3) EACH(k, PAIR) at[VECTORS * gate + v + k] = 1.0f / x[PAIR * gate + k];
        EACH(k, PAIR) at[VECTORS * 3 + v + k] = x[PAIR * 3 + k] / below[k];
    }
}

#if TOGETHER == 1
/* c <- f c + i z, and the gates are given as sums. A gate times a tangent is one division. */
static inline void remember(const row *sums, float *c) {
    vector x[3 * PAIR], below[PAIR], *old = (vector *)c;
    const vector *i = (const vector *)sums[0], *f = (const vector *)sums[1];
    const vector *z = (const vector *)sums[3];
    for (int v = 0; v < VECTORS; v += PAIR) {
        EACH(k, PAIR) {
            x[k] = i[v + k];
            x[PAIR + k] = f[v + k];
            x[2 * PAIR + k] = z[v + k];
        }
        split_gates(3, x, below);
        EACH(k, PAIR)
        old[v + k] = old[v + k] / x[PAIR + k] + x[2 * PAIR + k] / (x[k] * below[k]);
    }
}

/* h <- o tanh c. */
static inline void show(const float *sum, const float *c, float *h) {
    vector x[2 * PAIR], below[PAIR], *to = (vector *)h;
    const vector *o = (const vector *)sum, *held = (const vector *)c;
    for (int v = 0; v < VECTORS; v += PAIR) {
        EACH(k, PAIR) {
            x[k] = o[v + k];
            x[PAIR + k] = (float)(2 * PER_LOG_2) * held[v + k];
        }
        split_gates(2, x, below);
        EACH(k, PAIR) to[v + k] = x[PAIR + k] / (x[k] * below[k]);
    }
}

/* Units whose sums are made first: with one after the other, a processor would wait for the sums of
 * each. */
#define UNITS 12

void step_lstm_cell(const lstm_cell *cell, long skip, row *seen, const lstm_memory *memory,
                    row *h) {
    long count = cell->inputs + cell->units;
    row sums[UNITS][4], c[UNITS];
    for (long u = 0; u < cell->units; u++)
        copy_row(seen[cell->inputs + u], memory->last_h + u * memory->stride, memory->count);
    for (long first = 0; first < cell->units; first += UNITS) {
        long units = cell->units - first < UNITS ? cell->units - first : UNITS;
        for (long u = 0; u < units; u++) {
            long place = (first + u) * memory->stride;
            gate_sums(unit_weights(cell, first + u), 1, skip, (const row *)seen, count, sums[u]);
            ask_row(memory->last_h + place, memory->ahead);
            ask_row(memory->last_c + place, memory->ahead);
            copy_row(c[u], memory->last_c + place, memory->count);
        }
        for (long u = 0; u < units; u++) remember((const row *)sums[u], c[u]);
        for (long u = 0; u < units; u++) {
            long place = (first + u) * memory->stride;
            show(sums[u][2], c[u], h[first + u]);
            write_row(memory->h + place, h[first + u], memory->active, memory->count);
            write_row(memory->c + place, c[u], memory->active, memory->count);
        }
    }
}

#endif

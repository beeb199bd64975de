/* The step of an LSTM cell with AVX-512.
 *
 * Two kinds of work alternate: the sums of two units, which are products, and the gates of the two
 * before them, which are mostly other instructions. So a processor does both at once. Powers come
 * from a table of the 32nd roots of two, which lies in registers. */
#include "lstm.h"

#if TOGETHER == 2

/* 2^(j / 32) as floats, less what `power` adds to their bits. */
static const uint32_t roots[32] __attribute__((aligned(64))) = {
    0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
    0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
    0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
    0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3};

/* How much larger 2^(j / 32) is than its float, as a share of that. */
static const float root_errors[32] __attribute__((aligned(64))) = {
    0.0f, -4.70845762e-08f, 4.62854715e-08f, -5.56042252e-08f, -1.19921575e-08f,
    -4.87760623e-08f, 4.72978243e-08f, -3.48144269e-08f, 3.19341815e-08f, -2.68866653e-08f,
    3.62105723e-08f, 1.11842102e-09f, -3.09907193e-08f, -2.63830096e-08f, -7.47521334e-09f,
    -4.24563567e-08f, 1.71142709e-08f, 2.30019666e-08f, -3.04768335e-08f, -1.65385377e-08f,
    5.23333421e-09f, -3.59206460e-08f, 6.10759177e-09f, -3.11405444e-08f, -1.47196051e-08f,
    -2.82181016e-08f, -5.25879518e-09f, -6.36038733e-09f, -6.12825968e-09f, -2.48804088e-08f,
    5.14060927e-09f, -8.69726691e-09f};

/* The value at the last five bits of each index. */
static inline vector look_up(const void *table, vector index) {
    const __m512 *half = table;
    return (vector)_mm512_permutex2var_ps(half[0], (__m512i)index, half[1]);
}

/* Split each x, clamped to +-bound, into whole 32nds and a rest of at most 1/64. */
static inline void split(const int count, vector *x, vector *whole, float bound) {
    const float rounding = 393216.0f; /* 1.5 * 2^18: the last bit is worth 1/32 */
    EACH(k, count) x[k] = clamped(x[k], bound);
    EACH(k, count) whole[k] = x[k] + rounding;
    EACH(k, count) x[k] -= whole[k] - rounding;
}

/* 2 to the power of so many whole 32nds. */
static inline vector power(vector whole) {
    return (vector)((vector_bits)look_up(roots, whole) + ((vector_bits)whole << 18));
}

/* 1 + 2^x, the denominators of sigmoids. The polynomial was fitted to an error of 5e-8. */
static inline void sigmoid_denominators(const int count, vector *x, const vector *whole) {
    vector p[4];
    EACH(k, count) p[k] = 0.24022475f * x[k] + 0.69315734f;
    EACH(k, count) p[k] = p[k] * x[k] + 1.0f;
    EACH(k, count) x[k] = power(whole[k]) * p[k] + 1.0f;
}

/* 2^x - 1 and 2^x + 1, the fraction of a hyperbolic tangent. The polynomial was fitted to an error
 * of 1.3e-8 of 2^x - 1, which keeps its digits near zero. */
static inline void tangent_fractions(vector *x, const vector *whole, vector *below) {
    vector p[2];
    EACH(k, 2) p[k] = 0.05550411f * x[k] + 0.24022827f;
    EACH(k, 2) p[k] = p[k] * x[k] + 0.6931472f;
    EACH(k, 2) p[k] = p[k] * x[k] + look_up(root_errors, whole[k]);
    EACH(k, 2) {
        vector scale = power(whole[k]);
        x[k] = scale * p[k] + (scale - 1.0f);
        below[k] = 2.0f + x[k];
    }
}

/* Two units of one vector of coordinates. */
typedef struct {
    vector gate[8]; /* sums of both, in this order; then parts of gates */
    vector_bits active;
    const float *last_c[2];
    float *h[2], *c[2], *all_h[2];
} pair;

enum { I = 0, F = 2, O = 4, Z = 6 };

static inline vector load(const float *from) {
    vector x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store(float *to, vector x, vector_bits mask) {
    vector_bits kept = (vector_bits)x & mask;
    memcpy(to, &kept, sizeof kept);
}

/* Add the products of rows from *x up to `end` to eight sums; returns the weights after them. */
static inline const float *add_rows(vector *sum, const float *weight, const vector **x,
                                    const vector *end) {
    for (; *x < end; *x += VECTORS, weight += 8) {
        vector seen = **x;
        EACH(j, 8) sum[j] += weight[j] * seen;
    }
    return weight;
}

/* Parts into which sums and gates are cut, to alternate. */
#define PARTS 7

/* Step a block of which no coordinate is missing. */
static void step_pairs(const lstm_cell *cell, long skip, const row *seen,
                       const lstm_memory *memory, row *h) {
    long units = cell->units, count = cell->inputs + units, turns = (units + 1) / 2 * VECTORS;
    row none = {0};
    pair last = {
        .last_c = {none, none}, .h = {none, none}, .c = {none, none}, .all_h = {none, none}};
    vector *gate = last.gate;
    long end[PARTS];
    for (int part = 0; part < PARTS; part++)
        end[part] = (skip + (count - skip) * (part + 1) / PARTS) * VECTORS;

    for (long turn = 0, v = 0, unit = 0; turn <= turns; turn++) {
        int is_last = turn == turns; /* with gates only */
        const float *weight = cell->packed + unit / 2 * (1 + count) * 8;
        const vector *first = (const vector *)seen + v, *x = first + skip * VECTORS;
        vector sum[8], whole[4], below[2];
        if (is_last) memset(end, 0, sizeof end);
        EACH(j, 8) sum[j] = every(weight[j]);
        weight += 8 * (1 + skip);

        weight = add_rows(sum, weight, &x, first + end[0]);
        split(4, gate + I, whole, 126.0f); /* F, too */
        weight = add_rows(sum, weight, &x, first + end[1]);
        sigmoid_denominators(4, gate + I, whole);
        weight = add_rows(sum, weight, &x, first + end[2]);
        split(2, gate + Z, whole, 26.0f);
        split(2, gate + O, whole + 2, 126.0f);
        weight = add_rows(sum, weight, &x, first + end[3]);
        tangent_fractions(gate + Z, whole, below);
        EACH(k, 2) {
            vector c = load(last.last_c[k]) / gate[F + k] + gate[Z + k] / (gate[I + k] * below[k]);
            store(last.c[k], c, last.active);
            gate[Z + k] = 2.8853901f * c; /* 2 / log 2 */
        }
        weight = add_rows(sum, weight, &x, first + end[4]);
        sigmoid_denominators(2, gate + O, whole + 2);
        split(2, gate + Z, whole, 26.0f);
        weight = add_rows(sum, weight, &x, first + end[5]);
        tangent_fractions(gate + Z, whole, below);
        EACH(k, 2) {
            vector new = gate[Z + k] / (gate[O + k] * below[k]);
            memcpy(last.all_h[k], &new, sizeof new);
            store(last.h[k], new, last.active);
        }
        weight = add_rows(sum, weight, &x, first + end[6]);
        if (is_last) break;

        EACH(j, 8) gate[j] = sum[j];
        last.active = ((const vector_bits *)memory->active)[v];
        EACH(k, 2) {
            int is_there = unit + k < units; /* of an odd number of units, the last is alone */
            long place = (unit + k) * memory->stride + v * LANES;
            last.last_c[k] = is_there ? memory->last_c + place : none;
            last.c[k] = is_there ? memory->c + place : none;
            last.h[k] = is_there ? memory->h + place : none;
            last.all_h[k] = is_there ? h[unit + k] + v * LANES : none;
            if (is_there) {
                ask(memory->last_h + place, memory->ahead);
                ask(memory->last_c + place, memory->ahead);
            }
        }
        unit += 2;
        if (unit >= units) {
            unit = 0;
            v++;
        }
    }
}

void step_lstm_cell(const lstm_cell *cell, long skip, row *seen, const lstm_memory *memory,
                    row *h) {
    long units = cell->units;
    for (long u = 0; u < units; u++)
        copy_row(seen[cell->inputs + u], memory->last_h + u * memory->stride, memory->count);
    if (memory->count == BLOCK) {
        step_pairs(cell, skip, (const row *)seen, memory, h);
        return;
    }
    row c[units], new_h[units];
    for (long u = 0; u < units; u++)
        copy_row(c[u], memory->last_c + u * memory->stride, memory->count);
    const lstm_memory copy = {*new_h, *c, *new_h, *c, BLOCK, BLOCK, 0, memory->active};
    step_pairs(cell, skip, (const row *)seen, &copy, h);
    for (long u = 0; u < units; u++) {
        write_row(memory->h + u * memory->stride, new_h[u], memory->active, memory->count);
        write_row(memory->c + u * memory->stride, c[u], memory->active, memory->count);
    }
}

#endif

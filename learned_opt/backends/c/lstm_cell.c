/* An LSTM cell with its derivative, for `learned_opt.rules.parts.lstm_cell.LSTMCell`.
 *
 * All arrays lie unit by unit, [units, count]. Where a column is idle, the cell gives zeros and no
 * derivative. The derivative computes the gates anew from what
 * the cell read, so that nothing else needs to be kept. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lstm.h"
#include "parallel.h"
#include "vector_math.h"

/* Blocks of one task of the forward pass, and blocks that the backward pass sums up at once. */
#define TASK_BLOCKS 16
#define WIDE 8
/* Most tasks of a backward pass; each has sums of its own, added up in order. */
#define MOST_TASKS 64

typedef struct {
    lstm_cell cell;
    int64_t count;
    const float *x, *h, *c, *grad_h, *grad_c;
    float *new_h, *new_c, *grad_x, *grad_last_h, *grad_last_c;
    long wides;     /* of each task of the backward pass, of WIDE blocks */
    float *turned;  /* [K / 4, 1 + 4 units, 4]: the weights of four inputs side by side, after 0 */
    float *sums;    /* [tasks, 1 + K, 4 units]: gradients of bias and weights; gates of a unit
                     * side by side */
    const uint8_t *idle; /* [count] or null: 1 where the new h and c are 0, whatever was read */
} job;

/* Mark, with all bits, the columns of a block that are not idle. */
static void mark_active(const job *own, long start, long count, unsigned *active) {
    if (!own->idle || count < BLOCK) memset(active, -1, BLOCK * sizeof *active);
    if (own->idle)
        for (long k = 0; k < count; k++) active[k] = own->idle[start + k] ? 0u : ~0u;
}

static void keep_active(float *values, const unsigned *active) {
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) values[k] = from_bits(to_bits(values[k]) & active[k]);
}

/* Write the first values of a row, unless nobody wants them. */
static void write_wanted(float *array, long place, const float *from, long count) {
    if (array) memcpy(array + place, from, count * sizeof(float));
}

static void read_block(const job *own, long start, long count, row *seen, row *c) {
    for (long k = 0; k < own->cell.inputs; k++)
        read_row(seen[k], own->x + k * own->count + start, count, 0);
    for (long u = 0; u < own->cell.units; u++) {
        read_row(seen[own->cell.inputs + u], own->h + u * own->count + start, count, 0);
        read_row(c[u], own->c + u * own->count + start, count, 0);
    }
}

static void forward_task(void *shared, long task) {
    const job *own = shared;
    long inputs = own->cell.inputs, units = own->cell.units, begin = task * TASK_BLOCKS * BLOCK;
    row space[inputs + 2 * units], *h = space + inputs + units;
    unsigned active[BLOCK] __attribute__((aligned(64)));
    for (long start = begin; start < begin + TASK_BLOCKS * BLOCK && start < own->count;
         start += BLOCK) {
        long count = own->count - start < BLOCK ? own->count - start : BLOCK;
        for (long k = 0; k < inputs; k++) read_row(space[k], own->x + k * own->count + start, count, 0);
        mark_active(own, start, count, active);
        const lstm_memory memory = {own->h + start, own->c + start, own->new_h + start,
                                    own->new_c + start, own->count, count, 0, active};
        step_lstm_cell(&own->cell, 0, space, &memory, h);
    }
}

/* Gradients of the logits of a block, [4 units] rows, and of the last c. */
static void logits_block(const job *own, long start, long count, const row *seen, const row *c,
                         row *logits) {
    row by_h, by_c;
    unsigned active[BLOCK] __attribute__((aligned(64)));
    mark_active(own, start, count, active);
    for (long u = 0; u < own->cell.units; u++) {
        row *gates = logits + 4 * u;
        lstm_gates(&own->cell, u, seen, gates);
        read_row(by_h, own->grad_h + u * own->count + start, count, 0);
        read_row(by_c, own->grad_c + u * own->count + start, count, 0);
        keep_active(by_h, active);
        keep_active(by_c, active);
#pragma omp simd
        for (int k = 0; k < BLOCK; k++) {
            float i = gates[0][k], f = gates[1][k], o = gates[2][k], z = gates[3][k];
            float squashed = hyperbolic_tangent(f * c[u][k] + i * z);
            float total = by_h[k] * o * (1.0f - squashed * squashed) + by_c[k];
            gates[0][k] = total * z * (i * (1.0f - i));
            gates[1][k] = total * c[u][k] * (f * (1.0f - f));
            gates[2][k] = by_h[k] * squashed * (o * (1.0f - o));
            gates[3][k] = total * i * (1.0f - z * z);
            by_c[k] = total * f;
        }
        write_wanted(own->grad_last_c, u * own->count + start, by_c, count);
    }
}

/* Four lanes at a time: one after the other takes three times as long. */
static inline float sum_of(vector x) {
    typedef float four __attribute__((vector_size(16)));
    four parts[LANES / 4];
    memcpy(parts, &x, sizeof x);
    for (int k = 1; k < LANES / 4; k++) parts[0] += parts[k];
    return (parts[0][0] + parts[0][1]) + (parts[0][2] + parts[0][3]);
}

/* Add to the gradients of the weights of four inputs (or fewer) to one unit. */
static void add_products(const row *const *seen, const row *const *logits, long blocks, long first,
                         long inputs, long unit, long width, float *sums) {
    vector total[4][4] = {{{0}}};
    for (long b = 0; b < blocks; b++)
        for (int v = 0; v < VECTORS; v++)
            for (int k = 0; k < 4; k++) {
                vector x = ((const vector *)seen[b][first + (k < inputs ? k : 0)])[v];
                for (int gate = 0; gate < 4; gate++)
                    total[k][gate] += x * ((const vector *)logits[b][4 * unit + gate])[v];
            }
    for (long k = 0; k < inputs; k++)
        for (int gate = 0; gate < 4; gate++)
            sums[(1 + first + k) * width + 4 * unit + gate] += sum_of(total[k][gate]);
}

static void backward_task(void *shared, long task) {
    const job *own = shared;
    long units = own->cell.units, width = 4 * units, read = own->cell.inputs + units;
    long begin = task * own->wides * WIDE * BLOCK, end = begin + own->wides * WIDE * BLOCK;
    row space[WIDE * (read + width) + units + 4], *c = space + WIDE * (read + width);
    row *four = c + units;
    float *sums = own->sums + task * (1 + read) * width;
    const row *seen[WIDE], *logits[WIDE];
    if (end > own->count) end = own->count;
    for (long wide = begin; wide < end; wide += WIDE * BLOCK) {
        long blocks = 0;
        for (long start = wide; start < end && blocks < WIDE; start += BLOCK, blocks++) {
            long count = end - start < BLOCK ? end - start : BLOCK;
            row *seen_here = space + blocks * (read + width), *logits_here = seen_here + read;
            read_block(own, start, count, seen_here, c);
            logits_block(own, start, count, (const row *)seen_here, (const row *)c, logits_here);
            seen[blocks] = (const row *)seen_here;
            logits[blocks] = (const row *)logits_here;
            /* Neither of x alone nor of h alone, where nobody wants them. */
            long first = own->grad_x ? 0 : own->cell.inputs / 4 * 4;
            long last = own->grad_last_h ? read : own->grad_x ? own->cell.inputs : 0;
            for (long k = first; k < last; k += 4) {
                lstm_four_sums(own->turned + k * (1 + width), (const row *)logits_here, width, four);
                for (long j = k; j < read && j < k + 4; j++) {
                    long unit = j - own->cell.inputs;
                    write_wanted(unit < 0 ? own->grad_x : own->grad_last_h,
                                 (unit < 0 ? j : unit) * own->count + start, four[j - k], count);
                }
            }
        }
        for (long u = 0; u < units; u++)
            for (long k = 0; k < read; k += 4)
                add_products(seen, logits, blocks, k, read - k < 4 ? read - k : 4, u, width, sums);
        for (long j = 0; j < width; j++) {
            vector total = {0};
            for (long b = 0; b < blocks; b++)
                for (int v = 0; v < VECTORS; v++) total += ((const vector *)logits[b][j])[v];
            sums[j] += sum_of(total);
        }
    }
}

/* Step count columns. arrays: weight, bias, x [inputs, count], h, c; idle; new h, new c. */
int learned_opt_lstm_forward(int64_t count, int64_t inputs, int64_t units, float *const *arrays,
                             int64_t threads) {
    job own = {.count = count, .x = arrays[2], .h = arrays[3], .c = arrays[4],
               .idle = (const uint8_t *)arrays[5], .new_h = arrays[6], .new_c = arrays[7]};
    if (make_lstm_cell(&own.cell, inputs, units, arrays[0], arrays[1])) return -1;
    long length = TASK_BLOCKS * BLOCK;
    run_tasks(forward_task, &own, (count + length - 1) / length, threads);
    free_lstm_cell(&own.cell);
    return 0;
}

/* From the gradients of h and c to those of all that was read.
 *
 * arrays: weight, bias, x, h, c, idle, gradients of the new h and c; then the gradients of x, of the
 * last h and c, of weight and bias, which are written. Those of x, h and c may be null: not wanted. */
int learned_opt_lstm_backward(int64_t count, int64_t inputs, int64_t units, float *const *arrays,
                              int64_t threads) {
    long read = inputs + units, width = 4 * units, length = WIDE * BLOCK;
    long all = (count + length - 1) / length, wides = (all + MOST_TASKS - 1) / MOST_TASKS;
    if (wides < 1) wides = 1;
    long tasks = (all + wides - 1) / wides;
    job own = {.count = count, .x = arrays[2], .h = arrays[3], .c = arrays[4],
               .idle = (const uint8_t *)arrays[5], .grad_h = arrays[6], .grad_c = arrays[7],
               .grad_x = arrays[8], .grad_last_h = arrays[9], .grad_last_c = arrays[10],
               .wides = wides};
    const float *weight = arrays[0];
    own.turned = calloc((read + 3) / 4 * 4 * (1 + width), sizeof(float));
    own.sums = calloc((tasks + 1) * (1 + read) * width, sizeof(float));
    int failed = !own.turned || !own.sums ||
                 make_lstm_cell(&own.cell, inputs, units, arrays[0], arrays[1]);
    if (!failed) {
        for (long k = 0; k < read; k++)
            for (long u = 0; u < units; u++)
                for (long gate = 0; gate < 4; gate++)
                    own.turned[k / 4 * 4 * (1 + width) + (1 + 4 * u + gate) * 4 + k % 4] =
                        weight[k * width + gate * units + u];
        run_tasks(backward_task, &own, tasks, threads);
        for (long k = 0; k <= read; k++)
            for (long u = 0; u < units; u++)
                for (long gate = 0; gate < 4; gate++) {
                    double total = 0;
                    for (long task = 0; task < tasks; task++)
                        total += own.sums[(task * (1 + read) + k) * width + 4 * u + gate];
                    float *to = k ? arrays[11] + (k - 1) * width : arrays[12];
                    to[gate * units + u] = (float)total;
                }
        free_lstm_cell(&own.cell);
    }
    free(own.turned);
    free(own.sums);
    return failed ? -1 : 0;
}

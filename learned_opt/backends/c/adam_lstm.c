/* A step of `learned_opt.rules.adam_lstm.AdamLSTM`. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinate_rules.h"
#include "vector_math.h"

#define AGES 4

/* The order of the settings, of the state and of the weights, as Python hands them in. */
enum { LOSS, FAST_BETA, SLOW_BETA, LOG_RANGE, LOG_GAIN, DIRECTION_GAIN, DECAY_STEPS, SMALLEST, FADE, AGE };
enum { H = STATE, C, M, FAST, SLOW };
enum { LSTM_WEIGHT, LSTM_BIAS, HEAD_WEIGHT, HEAD_BIAS };

typedef struct {
    long inputs, units;
    const lstm_cell *cell; /* of each tensor */
    const float *head_weight, *head_bias;
    const double *setting;
    long betas, main, shortest;
    const double *beta;
    const float *corrections; /* of each tensor: [n, 2 + betas], fast and slow first; inverses */
} adam_lstm;

static float *make_corrections(const tensor_list *list, const adam_lstm *own) {
    float *made = malloc(list->n * (2 + own->betas) * sizeof(float) + 1), *to = made;
    for (long k = 0; made && k < list->n; k++) {
        float step = *place(list, STEP, k) + 1;
        *to++ = 1.0f / correction(own->setting[FAST_BETA], step);
        *to++ = 1.0f / correction(own->setting[SLOW_BETA], step);
        for (long b = 0; b < own->betas; b++) *to++ = 1.0f / correction(own->beta[b], step);
    }
    return made;
}

/* The cell at a number of steps. Its inputs with the age are equal in all coordinates that had a
 * gradient: one input, 1 or 0, takes their place, with weights that add them up. */
static int make_cell_of_age(const adam_lstm *own, double step, const float *weight,
                            const float *bias, lstm_cell *cell) {
    long width = 4 * own->units, before = own->inputs - 1;
    float *folded = malloc((own->inputs + own->units) * width * sizeof(float));
    if (!folded) return -1;
    memcpy(folded, weight, before * width * sizeof(float));
    for (long j = 0; j < width; j++) {
        double total = 0;
        for (int a = 0; a < AGES; a++)
            total += step / (step + own->setting[AGE + a]) * weight[(before + a) * width + j];
        folded[before * width + j] = (float)total;
    }
    memcpy(folded + own->inputs * width, weight + (before + AGES) * width,
           own->units * width * sizeof(float));
    int failed = make_lstm_cell(cell, own->inputs, own->units, folded, bias);
    free(folded);
    return failed;
}

/* Cells of all tensors; those that follow each other with equal steps share one. Returns how many
 * cells were made, in `made`, or -1 without memory. */
static long make_cells(const tensor_list *list, const adam_lstm *own, const float *weight,
                       const float *bias, lstm_cell *cell, lstm_cell *made) {
    long count = 0;
    for (long k = 0; k < list->n; k++) {
        double step = *place(list, STEP, k) + 1.0;
        if (k == 0 || step != *place(list, STEP, k - 1) + 1.0) {
            if (make_cell_of_age(own, step, weight, bias, &made[count])) {
                while (count > 0) free_lstm_cell(&made[--count]);
                return -1;
            }
            count++;
        }
        cell[k] = made[count - 1];
    }
    return count;
}

static void average(float *to, const float *last, const float *value, double beta) {
    float keep = (float)beta, take = (float)(1 - beta);
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) to[k] = keep * last[k] + take * value[k];
}

/* 1 / sqrt(v) and the logarithm of v, with v the corrected mean square; as `_inverse_root`. */
static void inverse_root(const float *mean, float correction, float *inverse, float *logs) {
    float lowest = logf(1e-24f);
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        float v = mean[k] * correction, root = __builtin_sqrtf(v);
        inverse[k] = root > 0 ? 1.0f / (root + 1e-12f) : 0.0f;
        float known = logarithm(v + 1e-24f);
        logs[k] = root > 0 ? known : lowest;
    }
}

/* Both outputs of the head. */
static void read_head(const adam_lstm *own, const row *h, float *scale, float *bend) {
    vector first[VECTORS], second[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        first[v] = every(own->head_bias[0]);
        second[v] = every(own->head_bias[1]);
    }
    for (long u = 0; u < own->units; u++)
        for (int v = 0; v < VECTORS; v++) {
            vector value = ((const vector *)h[u])[v];
            first[v] += own->head_weight[u] * value;
            second[v] += own->head_weight[own->units + u] * value;
        }
    memcpy(scale, first, sizeof first);
    memcpy(bend, second, sizeof second);
}

static void step_block(const void *rule, const tensor_list *list, const block *at, void *scratch) {
    const adam_lstm *own = rule;
    const double *setting = own->setting;
    long units = own->units, betas = own->betas;
    row *seen = scratch, *momentum = seen + own->inputs + units, *h = momentum + betas;
    row *c = h + units, last, g, square, fast, slow, per_fast, per_slow, log_fast, log_slow;
    unsigned active[BLOCK] __attribute__((aligned(64)));

    read_row(g, place(list, GRADIENT, at->tensor) + at->start, at->count);
    float *fast_place = place(list, FAST, at->tensor) + at->start;
    float *slow_place = place(list, SLOW, at->tensor) + at->start;
    float sign = (float)list->sign;
    read_row(last, slow_place, at->count);
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        g[k] *= sign;
        active[k] = (g[k] != 0) | (last[k] != 0) ? ~0u : 0u;
    }

    float fast_keep = (float)setting[FAST_BETA], fast_take = (float)(1 - setting[FAST_BETA]);
    float slow_keep = (float)setting[SLOW_BETA], slow_take = (float)(1 - setting[SLOW_BETA]);
    read_row(square, fast_place, at->count);
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        fast[k] = fast_keep * square[k] + fast_take * g[k] * g[k];
        slow[k] = slow_keep * last[k] + slow_take * g[k] * g[k];
    }
    const float *correct = own->corrections + at->tensor * (2 + betas);
    inverse_root(fast, correct[0], per_fast, log_fast);
    inverse_root(slow, correct[1], per_slow, log_slow);

    float *m_place = place(list, M, at->tensor) + at->start;
    for (long b = 0; b < betas; b++) {
        read_row(last, m_place + b * at->size, at->count);
        average(momentum[b], last, g, own->beta[b]);
        write_row(m_place + b * at->size, momentum[b], active, at->count);
        float *feature = seen[b], *m = momentum[b];
#pragma omp simd
        for (int k = 0; k < BLOCK; k++) {
            m[k] = m[k] * correct[2 + b];
            feature[k] = m[k] * per_fast[k];
        }
    }

    row *feature = seen + betas;
    const float *main = momentum[own->main];
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        feature[0][k] = within(g[k] * per_slow[k], 3.0f);
        feature[1][k] = main[k] * per_slow[k];
        feature[2][k] = 0.25f * (log_fast[k] - log_slow[k]);
        float known = slow[k] > 0 ? 1.0f : 0.0f;
        feature[3][k] = known * (1.0f + 0.2f * logarithm(magnitude(g[k]) + 1e-9f));
        feature[4][k] = known * (1.0f + 0.1f * log_slow[k]);
        feature[5][k] = known;
    }

    float *h_place = place(list, H, at->tensor) + at->start;
    float *c_place = place(list, C, at->tensor) + at->start;
    for (long u = 0; u < units; u++) {
        read_row(seen[own->inputs + u], h_place + u * at->size, at->count);
        read_row(c[u], c_place + u * at->size, at->count);
    }
    step_lstm_cell(&own->cell[at->tensor], (const row *)seen, h, c);

    row scale, bend, update;
    read_head(own, (const row *)h, scale, bend);
    for (long u = 0; u < units; u++) {
        write_row(h_place + u * at->size, h[u], active, at->count);
        write_row(c_place + u * at->size, c[u], active, at->count);
    }
    write_row(fast_place, fast, active, at->count);
    write_row(slow_place, slow, active, at->count);

    const float *shortest = momentum[own->shortest];
    float range = (float)setting[LOG_RANGE];
    float gain = (float)(setting[LOG_GAIN] / setting[LOG_RANGE]);
    float bend_gain = (float)setting[DIRECTION_GAIN], per_fade = (float)(1 / setting[FADE]);
    float smallest = (float)setting[SMALLEST];
    float decay = 1.0f / (1.0f + at->step / (float)setting[DECAY_STEPS]);
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        float factor = exponential(range * hyperbolic_tangent(gain * scale[k]));
        float root = __builtin_sqrtf(slow[k] * correct[1]);
        float size = factor * decay * (root / (root + smallest));
        float longest = larger(magnitude(g[k]), magnitude(shortest[k]));
        float whole = smaller(longest * per_slow[k] * per_fade, 1.0f);
        float moved = -size * (feature[1][k] + bend_gain * whole * bend[k]);
        update[k] = from_bits(to_bits(moved) & active[k]);
    }
    move_parameters(list, at, update);
}

/* Step n tensors; see `step_coordinates`.
 *
 * places: [8, n]: parameter, gradient, step, h, c, m, fast, slow.
 * weights: of the cell, its bias, of the head, its bias.
 * settings: in the order of the enum above, then the betas; the loss is not read; whole: hidden size, number of betas,
 * places of Adam's and of the shortest momentum. */
int learned_opt_adam_lstm(int64_t n, const int64_t *sizes, float *const *places,
                          const double *rates, double sign, int64_t length,
                          uint8_t *untouched, uint8_t *doubtful, const float *const *weights,
                          const double *settings, const int64_t *whole, int64_t threads) {
    long units = whole[0], betas = whole[1], inputs = betas + 6;
    tensor_list list = {n, sizes, places, rates, sign};
    lstm_cell *cell = malloc(2 * n * sizeof(lstm_cell)), *made = cell + n;
    adam_lstm own = {inputs, units, cell, weights[HEAD_WEIGHT], weights[HEAD_BIAS], settings, betas,
                     whole[2], whole[3], settings + AGE + AGES, 0};
    float *corrections = make_corrections(&list, &own);
    own.corrections = corrections;
    long cells = -1;
    if (cell && corrections)
        cells = make_cells(&list, &own, weights[LSTM_WEIGHT], weights[LSTM_BIAS], cell, made);
    int failed = cells < 0;
    if (!failed) {
        /* A direction is at most SAFE_AVERAGE over the 1e-12 that is added to the root, over a
         * correction. */
        double bend = magnitude(own.head_bias[1]);
        for (long u = 0; u < units; u++) bend += magnitude(own.head_weight[units + u]);
        double least = 1 - own.beta[own.main];
        double longest = exp(settings[LOG_RANGE]) *
                         (2e27 / least + fabs(settings[DIRECTION_GAIN]) * bend);
        const state_bounds average = {betas, SAFE_AVERAGE, 0}, square = {1, SAFE_SQUARE, 1};
        const state_bounds memory = {units, SAFE, 0};
        const state_bounds bounds[] = {memory, memory, average, square, square};
        const leftovers left = {length, untouched, doubtful};
        size_t scratch = (inputs + units + betas + 2 * units) * sizeof(row);
        failed = step_coordinates(&list, step_block, &own, scratch, 5, bounds, longest, &left,
                                  threads);
    }
    while (cells > 0) free_lstm_cell(&made[--cells]);
    free(cell);
    free(corrections);
    return failed ? -1 : 0;
}

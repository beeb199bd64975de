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
    /* Of each tensor: [n, 3 + betas]: inverses of the corrections of fast, of slow and of the betas,
     * and by how much the age shortens the step. */
    const float *of_age;
    float fast_keep, fast_take, slow_keep, slow_take, range, gain, bend_gain, per_fade, smallest;
} adam_lstm;

static void read_settings(adam_lstm *own) {
    const double *setting = own->setting;
    own->fast_keep = (float)setting[FAST_BETA];
    own->fast_take = (float)(1 - setting[FAST_BETA]);
    own->slow_keep = (float)setting[SLOW_BETA];
    own->slow_take = (float)(1 - setting[SLOW_BETA]);
    own->range = (float)setting[LOG_RANGE];
    own->gain = (float)(setting[LOG_GAIN] / setting[LOG_RANGE]);
    own->bend_gain = (float)setting[DIRECTION_GAIN];
    own->per_fade = (float)(1 / setting[FADE]);
    own->smallest = (float)setting[SMALLEST];
}

static float *make_of_age(const tensor_list *list, const adam_lstm *own) {
    float *made = malloc(list->n * (3 + own->betas) * sizeof(float) + 1), *to = made;
    for (long k = 0; made && k < list->n; k++) {
        float step = *place(list, STEP, k) + 1;
        *to++ = 1.0f / correction(own->setting[FAST_BETA], step);
        *to++ = 1.0f / correction(own->setting[SLOW_BETA], step);
        for (long b = 0; b < own->betas; b++) *to++ = 1.0f / correction(own->beta[b], step);
        *to++ = 1.0f / (1.0f + step / (float)own->setting[DECAY_STEPS]);
    }
    return made;
}

/* The cell at a number of steps. Its inputs with the age are equal in all coordinates that had a
 * gradient: their products are part of the bias. One input, the first, takes their place: -1 where
 * there was no gradient, else 0, with weights that add them up. */
static int make_cell_of_age(const adam_lstm *own, double step, const float *weight,
                            const float *bias, lstm_cell *cell) {
    long width = 4 * own->units, before = own->inputs - 1;
    float *folded = malloc((1 + own->inputs + own->units) * width * sizeof(float));
    if (!folded) return -1;
    float *new_bias = folded + (own->inputs + own->units) * width;
    for (long j = 0; j < width; j++) {
        double total = 0;
        for (int a = 0; a < AGES; a++)
            total += step / (step + own->setting[AGE + a]) * weight[(before + a) * width + j];
        folded[j] = (float)total;
        new_bias[j] = (float)(bias[j] + total);
    }
    memcpy(folded + width, weight, before * width * sizeof(float));
    memcpy(folded + own->inputs * width, weight + (before + AGES) * width,
           own->units * width * sizeof(float));
    int failed = make_lstm_cell(cell, own->inputs, own->units, folded, new_bias);
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

/* The root of a mean square v, the inverse of that, and the logarithm of v; as `_inverse_root`. */
static inline float inverse_root(float v, float *root, float *logs) {
    const float lowest = -55.262042f; /* log 1e-24 */
    float known = logarithm(v + 1e-24f);
    *root = __builtin_sqrtf(v);
    *logs = *root > 0 ? known : lowest;
    return *root > 0 ? 1.0f / (*root + 1e-12f) : 0.0f;
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
    long betas = own->betas;
    row *seen = scratch, *momentum = seen + own->inputs + own->units, *h = momentum + betas;
    row g, fast, slow, root, per_fast, per_slow, direction, update;
    unsigned active[BLOCK] __attribute__((aligned(64))), is_unknown = 0;
    const float *of_age = own->of_age + at->tensor * (3 + betas);
    float sign = (float)list->sign, correct_fast = of_age[0], correct_slow = of_age[1];

    ask_row(place(list, PARAMETER, at->tensor) + at->start, at->ahead);
    read_row(g, place(list, GRADIENT, at->tensor) + at->start, at->count, at->ahead);
    float *fast_place = place(list, FAST, at->tensor) + at->start;
    float *slow_place = place(list, SLOW, at->tensor) + at->start;
    read_row(fast, fast_place, at->count, at->ahead);
    read_row(slow, slow_place, at->count, at->ahead);
    row *unknown = seen, *of_momentum = seen + 1, *feature = of_momentum + betas;
#pragma omp simd reduction(| : is_unknown)
    for (int k = 0; k < BLOCK; k++) {
        g[k] *= sign;
        active[k] = (g[k] != 0) | (slow[k] != 0) ? ~0u : 0u;
        fast[k] = own->fast_keep * fast[k] + own->fast_take * g[k] * g[k];
        slow[k] = own->slow_keep * slow[k] + own->slow_take * g[k] * g[k];
        float fast_root, log_fast, log_slow;
        per_fast[k] = inverse_root(fast[k] * correct_fast, &fast_root, &log_fast);
        per_slow[k] = inverse_root(slow[k] * correct_slow, &root[k], &log_slow);
        float known = slow[k] > 0 ? 1.0f : 0.0f;
        is_unknown |= active[k] & (slow[k] > 0 ? 0u : ~0u);
        unknown[0][k] = known - 1.0f;
        feature[0][k] = within(g[k] * per_slow[k], 3.0f);
        feature[2][k] = 0.25f * (log_fast - log_slow);
        feature[3][k] = known * (1.0f + 0.2f * logarithm(magnitude(g[k]) + 1e-9f));
        feature[4][k] = known * (1.0f + 0.1f * log_slow);
    }

    float *m_place = place(list, M, at->tensor) + at->start;
    for (long b = 0; b < betas; b++) {
        float *m = momentum[b], *seen_m = of_momentum[b], correct = of_age[2 + b];
        float keep = (float)own->beta[b], take = (float)(1 - own->beta[b]);
        read_row(m, m_place + b * at->size, at->count, at->ahead);
#pragma omp simd
        for (int k = 0; k < BLOCK; k++) m[k] = keep * m[k] + take * g[k];
        write_row(m_place + b * at->size, m, active, at->count);
#pragma omp simd
        for (int k = 0; k < BLOCK; k++) {
            m[k] *= correct;
            seen_m[k] = m[k] * per_fast[k];
        }
    }
    const float *main = momentum[own->main], *shortest = momentum[own->shortest];
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) feature[1][k] = direction[k] = main[k] * per_slow[k];

    float *h_place = place(list, H, at->tensor) + at->start;
    float *c_place = place(list, C, at->tensor) + at->start;
    const lstm_memory memory = {h_place, c_place, h_place, c_place, at->size, at->count, at->ahead,
                                active};
    step_lstm_cell(&own->cell[at->tensor], is_unknown ? 0 : 1, seen, &memory, h);

    row scale, bend;
    read_head(own, (const row *)h, scale, bend);
    write_row(fast_place, fast, active, at->count);
    write_row(slow_place, slow, active, at->count);

    float decay = of_age[2 + betas];
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        float factor = exponential(own->range * hyperbolic_tangent(own->gain * scale[k]));
        float size = factor * decay * (root[k] / (root[k] + own->smallest));
        float longest = larger(magnitude(g[k]), magnitude(shortest[k]));
        float whole = smaller(longest * per_slow[k] * own->per_fade, 1.0f);
        float moved = -size * (direction[k] + own->bend_gain * whole * bend[k]);
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
    adam_lstm own = {.inputs = inputs, .units = units, .cell = cell,
                     .head_weight = weights[HEAD_WEIGHT], .head_bias = weights[HEAD_BIAS],
                     .setting = settings, .betas = betas, .main = whole[2], .shortest = whole[3],
                     .beta = settings + AGE + AGES};
    read_settings(&own);
    float *of_age = make_of_age(&list, &own);
    own.of_age = of_age;
    long cells = -1;
    if (cell && of_age)
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
        size_t scratch = (inputs + units + betas + units) * sizeof(row);
        failed = step_coordinates(&list, step_block, &own, scratch, 5, bounds, longest, &left,
                                  threads);
    }
    while (cells > 0) free_lstm_cell(&made[--cells]);
    free(cell);
    free(of_age);
    return failed ? -1 : 0;
}

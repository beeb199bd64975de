/* A step of `learned_opt.rules.lstm.CoordinateLSTM`. */
#include <math.h>
#include <stdlib.h>

#include "coordinate_rules.h"
#include "log_sign.h"

/* The order of the settings. The state is h and c of each layer, and the recent size. */
enum { LOSS, P, OUTPUT_SCALE, RECENT_DECAY, SMALLEST };

typedef struct {
    long layers;
    lstm_cell *cell;
    const float *head_weight, *head_bias;
    const double *setting;
} coordinate_lstm;

static void step_block(const void *rule, const tensor_list *list, const block *at, void *scratch) {
    const coordinate_lstm *own = rule;
    row g, last, recent, known, update, *seen = scratch, *h = seen;
    unsigned active[BLOCK] __attribute__((aligned(64)));
    float sign = (float)list->sign;

    read_row(g, place(list, GRADIENT, at->tensor) + at->start, at->count, at->ahead);
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        g[k] *= sign;
        active[k] = g[k] != 0 ? ~0u : 0u;
    }
    log_sign(g, (float)own->setting[P], seen[0], seen[1]);
    for (long layer = 0; layer < own->layers; layer++) {
        const lstm_cell *cell = &own->cell[layer];
        /* The new h of a layer goes where the next one reads its inputs. */
        h = seen + cell->inputs + cell->units;
        float *h_place = place(list, STATE + 2 * layer, at->tensor) + at->start;
        float *c_place = place(list, STATE + 2 * layer + 1, at->tensor) + at->start;
        if (layer == 0)
            for (long u = 0; u < cell->units; u++) {
                copy_row(last, c_place + u * at->size, at->count);
                mark_nonzero(active, last);
            }
        const lstm_memory memory = {h_place, c_place, h_place, c_place, at->size, at->count, at->ahead,
                                active};
        step_lstm_cell(cell, 0, seen, &memory, h);
        seen = h;
    }

    float *recent_place = place(list, STATE + 2 * own->layers, at->tensor) + at->start;
    read_row(recent, recent_place, at->count, at->ahead);
    recent_size(g, recent, known, (float)own->setting[RECENT_DECAY],
                (float)own->setting[SMALLEST]);
    write_row(recent_place, recent, active, at->count);
    for (int k = 0; k < BLOCK; k++) update[k] = own->head_bias[0];
    for (long u = 0; u < own->cell[own->layers - 1].units; u++) {
        float weight = own->head_weight[u];
#pragma omp simd
        for (int k = 0; k < BLOCK; k++) update[k] += weight * h[u][k];
    }
    float scale = (float)own->setting[OUTPUT_SCALE];
#pragma omp simd
    for (int k = 0; k < BLOCK; k++)
        update[k] = from_bits(to_bits(known[k] * (scale * update[k])) & active[k]);
    move_parameters(list, at, update);
}

/* Step n tensors; see `step_coordinates`.
 *
 * places: [4 + 2 layers, n]: parameter, gradient, step, h and c of each layer, recent size.
 * weights: of each layer and its bias, of the head and its bias.
 * settings: in the order of the enum above; whole: the units of each layer. */
int learned_opt_coordinate_lstm(int64_t n, const int64_t *sizes, float *const *places,
                                const double *rates, double sign, int64_t length,
                                uint8_t *untouched, uint8_t *doubtful, const float *const *weights,
                                const double *settings, const int64_t *whole, int64_t threads) {
    tensor_list list = {n, sizes, places, rates, sign};
    long layers = whole[0], rows = 0, made = 0;
    coordinate_lstm own = {layers, malloc(layers * sizeof(lstm_cell)), weights[2 * layers],
                           weights[2 * layers + 1], settings};
    state_bounds *bounds = malloc((2 * layers + 1) * sizeof(state_bounds));
    const leftovers left = {length, untouched, doubtful};
    int failed = !own.cell || !bounds;
    for (long inputs = 2; !failed && made < layers; made++) {
        long units = whole[1 + made];
        failed = make_lstm_cell(&own.cell[made], inputs, units, weights[2 * made],
                                weights[2 * made + 1]);
        if (failed) break;
        bounds[2 * made] = bounds[2 * made + 1] = (state_bounds){units, SAFE, 0};
        rows += inputs + units;
        inputs = units;
    }
    if (!failed) {
        long units = whole[layers];
        double longest = magnitude(own.head_bias[0]);
        for (long u = 0; u < units; u++) longest += magnitude(own.head_weight[u]);
        bounds[2 * layers] = (state_bounds){1, SAFE_AVERAGE, 0};
        failed = step_coordinates(&list, step_block, &own, (rows + units) * sizeof(row),
                                  2 * layers + 1, bounds, fabs(settings[OUTPUT_SCALE]) * longest,
                                  &left, threads);
    }
    while (made > 0) free_lstm_cell(&own.cell[--made]);
    free(own.cell);
    free(bounds);
    return failed;
}

/* Steps of `GatedLSTM` and `MomentumGatedLSTM` of `learned_opt.rules.gated_lstm`. */
#include <math.h>
#include <stdlib.h>

#include "coordinate_rules.h"
#include "log_sign.h"

/* The order of the settings. */
enum { LOSS, P, RECENT_DECAY, SMALLEST };

/* An LSTM, unless it has no units, and a pair of gates that reads its output. */
typedef struct {
    lstm_cell lstm;
    const float *weight, *bias; /* of the gates: [features + 2, 2] and [2], f and i side by side */
    long features;
} gate_reader;

typedef struct {
    long inputs;        /* 2, or 4 with the loss */
    float loss[2];      /* its logarithm and sign */
    int has_memory;     /* whether a first pair of gates stores past gradients */
    gate_reader memory, own;
    long memory_h, h, memory_gates, gates, recent, m; /* places of the state tensors */
    const double *setting;
} gated;

/* Gates of a block from the value that the LSTM reads and the one that the gates act on.
 *
 * h_place, gates_place: roles of the state; c comes after h. forget_logit: before the sigmoid. */
static void read_gates(const gated *rule, const gate_reader *reader, const tensor_list *list,
                       const block *at, const float *value, const float *acted_on, long h_role,
                       long gates_role, const unsigned *active, row *seen, float *forget,
                       float *forget_logit, float *input) {
    long units = reader->lstm.units;
    log_sign(value, (float)rule->setting[P], seen[0], seen[1]);
    for (long extra = 2; extra < rule->inputs; extra++)
        for (int k = 0; k < BLOCK; k++) seen[extra][k] = rule->loss[extra - 2];
    row *features = seen;
    if (units) {
        row *h = seen + rule->inputs + units;
        float *h_place = place(list, h_role, at->tensor) + at->start;
        float *c_place = place(list, h_role + 1, at->tensor) + at->start;
        const lstm_memory memory = {h_place, c_place, h_place, c_place, at->size, at->count, at->ahead,
                                active};
        step_lstm_cell(&reader->lstm, 0, seen, &memory, h);
        features = h;
    }
    row logit[2], last;
    float *gates_place = place(list, gates_role, at->tensor) + at->start;
    for (int gate = 0; gate < 2; gate++) {
        const float *weight = reader->weight + gate;
        float *to = logit[gate];
        for (int k = 0; k < BLOCK; k++) to[k] = reader->bias[gate];
        for (long f = 0; f < reader->features; f++, weight += 2) {
            float factor = *weight;
#pragma omp simd
            for (int k = 0; k < BLOCK; k++) to[k] += factor * features[f][k];
        }
        float of_value = weight[0], of_last = weight[2];
        read_row(last, gates_place + gate * at->size, at->count, at->ahead);
#pragma omp simd
        for (int k = 0; k < BLOCK; k++) to[k] += of_value * acted_on[k] + of_last * last[k];
    }
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        forget_logit[k] = logit[0][k];
        forget[k] = sigmoid(logit[0][k]);
        input[k] = sigmoid(logit[1][k]);
    }
    write_row(gates_place, forget, active, at->count);
    write_row(gates_place + at->size, input, active, at->count);
}

static void step_block(const void *rule, const tensor_list *list, const block *at, void *scratch) {
    const gated *own = rule;
    row g, m, theta, last, recent, known, forget, logit, input, update;
    unsigned active[BLOCK] __attribute__((aligned(64)));
    float sign = (float)list->sign;

    read_row(g, place(list, GRADIENT, at->tensor) + at->start, at->count, at->ahead);
    read_row(theta, place(list, PARAMETER, at->tensor) + at->start, at->count, at->ahead);
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        g[k] *= sign;
        active[k] = g[k] != 0 ? ~0u : 0u;
    }
    for (int gate = 0; gate < 2; gate++) {
        const float *gates = place(list, own->gates, at->tensor) + gate * at->size + at->start;
        read_row(last, gates, at->count, at->ahead);
        mark_nonzero(active, last);
    }
    float *recent_place = place(list, own->recent, at->tensor) + at->start;
    read_row(recent, recent_place, at->count, at->ahead);
    recent_size(g, recent, known, (float)own->setting[RECENT_DECAY],
                (float)own->setting[SMALLEST]);
    write_row(recent_place, recent, active, at->count);

    if (own->has_memory) {
        float *m_place = place(list, own->m, at->tensor) + at->start;
        read_row(m, m_place, at->count, at->ahead);
        read_gates(own, &own->memory, list, at, g, m, own->memory_h, own->memory_gates, active,
                   scratch, forget, logit, input);
#pragma omp simd
        for (int k = 0; k < BLOCK; k++) m[k] = forget[k] * m[k] - input[k] * g[k];
        write_row(m_place, m, active, at->count);
    }
    const float *value = own->has_memory ? m : g;
    float direction = own->has_memory ? 1.0f : -1.0f;
    read_gates(own, &own->own, list, at, value, theta, own->h, own->gates, active, scratch, forget,
               logit, input);
#pragma omp simd
    for (int k = 0; k < BLOCK; k++) {
        /* f - 1, exact where f rounds to 1 */
        float shrink = -sigmoid(-logit[k]);
        float moved = known[k] * (shrink * theta[k] + direction * input[k] * value[k]);
        update[k] = from_bits(to_bits(moved) & active[k]);
    }
    move_parameters(list, at, update);
}

static int make_gate_reader(gate_reader *made, long inputs, long units,
                            const float *const *weights) {
    made->features = units ? units : inputs;
    made->lstm.packed = 0;
    made->lstm.units = 0;
    if (units && make_lstm_cell(&made->lstm, inputs, units, weights[0], weights[1])) return -1;
    made->weight = weights[units ? 2 : 0];
    made->bias = weights[units ? 3 : 1];
    return 0;
}

/* Step n tensors; see `step_coordinates`.
 *
 * places: parameter, gradient, step; with a memory m; h and c of each LSTM that has units, that of
 * the memory first; the gates of each pair; the recent size.
 * weights: of each LSTM, its bias, of its gates, their bias; those of the memory first.
 * settings: in the order of the enum above; whole: units, whether the loss is read, whether there
 * is a memory. */
int learned_opt_gated(int64_t n, const int64_t *sizes, float *const *places, const double *rates,
                      double sign, int64_t length, uint8_t *untouched, uint8_t *doubtful,
                      const float *const *weights, const double *settings, const int64_t *whole,
                      int64_t threads) {
    tensor_list list = {n, sizes, places, rates, sign};
    long units = whole[0], inputs = whole[1] ? 4 : 2, has_memory = whole[2], states = 0;
    gated own = {.inputs = inputs, .has_memory = has_memory, .setting = settings};
    const state_bounds one = {1, SAFE_AVERAGE, 0}, pair = {2, SAFE_AVERAGE, 0};
    const state_bounds memory = {units, SAFE, 0};
    const leftovers left = {length, untouched, doubtful};
    state_bounds bounds[9];
    own.m = STATE;
    if (has_memory) bounds[states++] = one;
    own.memory_h = STATE + states;
    if (has_memory && units) bounds[states] = bounds[states + 1] = memory, states += 2;
    own.h = STATE + states;
    if (units) bounds[states] = bounds[states + 1] = memory, states += 2;
    own.memory_gates = STATE + states;
    if (has_memory) bounds[states++] = pair;
    own.gates = STATE + states;
    bounds[states++] = pair;
    own.recent = STATE + states;
    bounds[states++] = one;

    row loss, logs, signs;
    for (int k = 0; k < BLOCK; k++) loss[k] = (float)settings[LOSS];
    log_sign(loss, (float)settings[P], logs, signs);
    own.loss[0] = logs[0];
    own.loss[1] = signs[0];
    /* Gates lie between 0 and 1, parameters and gradients below SAFE. A loss that is no number
     * stops every tensor. */
    double longest = magnitude(loss[0]) < INFINITY ? 1e26 : INFINITY;

    long weights_of_one = units ? 4 : 2;
    int failed = has_memory && make_gate_reader(&own.memory, inputs, units, weights);
    if (!failed)
        failed = make_gate_reader(&own.own, inputs, units,
                                  weights + (has_memory ? weights_of_one : 0));
    if (!failed)
        failed = step_coordinates(&list, step_block, &own, (inputs + 2 * units) * sizeof(row),
                                  states, bounds, longest, &left, threads);
    free_lstm_cell(&own.memory.lstm);
    free_lstm_cell(&own.own.lstm);
    return failed ? -1 : 0;
}

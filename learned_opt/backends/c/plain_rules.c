/* Steps of the hand-designed rules in `learned_opt.rules.sgd` and `learned_opt.rules.adam`. */
#include <math.h>

#include "coordinate_rules.h"
#include "vector_math.h"

/* Where a block's parameter, gradient and state lie, the latter in the order of the rule. */
typedef struct {
    float *p, *first, *second;
    const float *g;
    float sign, lr, shrink;
} pointers;

static pointers point(const tensor_list *list, const block *at, long states) {
    double lr = list->rates[2 * at->tensor], decay = list->rates[2 * at->tensor + 1];
    pointers to = {.p = place(list, PARAMETER, at->tensor) + at->start,
                   .g = place(list, GRADIENT, at->tensor) + at->start,
                   .sign = (float)list->sign, .lr = (float)lr, .shrink = (float)(lr * decay)};
    if (states > 0) to.first = place(list, STATE, at->tensor) + at->start;
    if (states > 1) to.second = place(list, STATE + 1, at->tensor) + at->start;
    return to;
}

static void sgd_block(const void *rule, const tensor_list *list, const block *at, void *scratch) {
    (void)rule, (void)scratch;
    pointers to = point(list, at, 0);
    float *restrict p = to.p, step = to.lr * to.sign;
    const float *restrict g = to.g;
#pragma omp simd
    for (long k = 0; k < at->count; k++) p[k] = p[k] - step * g[k] - to.shrink * p[k];
}

static void momentum_block(const void *rule, const tensor_list *list, const block *at,
                           void *scratch) {
    (void)scratch;
    const double *setting = rule;
    pointers to = point(list, at, 1);
    float *restrict p = to.p, *restrict m = to.first;
    const float *restrict g_ = to.g;
    float keep = (float)setting[1], take = at->step > 1 ? (float)(1 - setting[2]) : 1.0f;
    /* The direction in parts of g and of the new m. */
    float of_g = setting[3] != 0 ? 1.0f : 0.0f, of_m = setting[3] != 0 ? keep : 1.0f;
#pragma omp simd
    for (long k = 0; k < at->count; k++) {
        float g = to.sign * g_[k];
        float new_m = keep * m[k] + take * g;
        m[k] = new_m;
        p[k] = p[k] - to.lr * (of_g * g + of_m * new_m) - to.shrink * p[k];
    }
}

static void rmsprop_block(const void *rule, const tensor_list *list, const block *at,
                          void *scratch) {
    (void)scratch;
    const double *setting = rule;
    pointers to = point(list, at, 1);
    float *restrict p = to.p, *restrict v_ = to.first;
    const float *restrict g_ = to.g;
    float keep = (float)setting[1], take = (float)(1 - setting[1]), eps = (float)setting[2];
#pragma omp simd
    for (long k = 0; k < at->count; k++) {
        float g = to.sign * g_[k];
        uint32_t active = (g != 0) | (v_[k] != 0) ? ~0u : 0u;
        float v = keep * v_[k] + take * g * g;
        v_[k] = v;
        float direction = from_bits(to_bits(g / (__builtin_sqrtf(v) + eps)) & active);
        p[k] = p[k] - to.lr * direction - to.shrink * p[k];
    }
}

static void adam_block(const void *rule, const tensor_list *list, const block *at, void *scratch) {
    (void)scratch;
    const double *setting = rule;
    pointers to = point(list, at, 2);
    float *restrict p = to.p, *restrict m_ = to.first, *restrict v_ = to.second;
    const float *restrict g_ = to.g;
    float keep = (float)setting[1], take = (float)(1 - setting[1]);
    float keep_v = (float)setting[2], take_v = (float)(1 - setting[2]), eps = (float)setting[3];
    float whole = 1.0f / correction(setting[1], at->step);
    float root = 1.0f / __builtin_sqrtf(correction(setting[2], at->step));
#pragma omp simd
    for (long k = 0; k < at->count; k++) {
        float g = to.sign * g_[k];
        /* As in the rule: a coordinate with v = 0 and no gradient is idle, and its state zero. */
        uint32_t active = (g != 0) | (v_[k] != 0) ? ~0u : 0u;
        float m = keep * m_[k] + take * g;
        float v = keep_v * v_[k] + take_v * g * g;
        m_[k] = from_bits(to_bits(m) & active);
        v_[k] = v;
        float direction = m * whole / (__builtin_sqrtf(v) * root + eps);
        p[k] = p[k] - to.lr * from_bits(to_bits(direction) & active) - to.shrink * p[k];
    }
}

static const state_bounds AVERAGE = {1, SAFE_AVERAGE, 0}, SQUARE = {1, SAFE_SQUARE, 1};

/* Each steps n tensors; see `step_coordinates`. There are no weights.
 *
 * places: [3 + states, n]: parameter, gradient, step, then the state.
 * settings: as the Python class lists them, after the loss. */
#define PLAIN_RULE(name, states, longest, ...)                                                     \
    int learned_opt_##name(int64_t n, const int64_t *sizes, float *const *places,                  \
                           const double *rates, double sign, int64_t length, uint8_t *untouched,   \
                           uint8_t *doubtful, const float *const *weights, const double *setting,  \
                           const int64_t *whole, int64_t threads) {                                \
        (void)weights, (void)whole;                                                                \
        tensor_list list = {n, sizes, places, rates, sign};                                        \
        leftovers left = {length, untouched, doubtful};                                            \
        const state_bounds bounds[] = {__VA_ARGS__};                                               \
        return step_coordinates(&list, name##_block, setting, 0, states, bounds, longest, &left,   \
                                threads);                                                          \
    }

PLAIN_RULE(sgd, 0, SAFE, AVERAGE)
/* A momentum is at most the sum of the gradients' shares. */
#define LONGEST_MOMENTUM (SAFE_AVERAGE / (1 - setting[1]))
PLAIN_RULE(momentum, 1, SAFE + LONGEST_MOMENTUM, {1, (float)LONGEST_MOMENTUM, 0})
PLAIN_RULE(rmsprop, 1, SAFE / setting[2], SQUARE)
PLAIN_RULE(adam, 2, SAFE_AVERAGE / (1 - setting[1]) / setting[3], AVERAGE, SQUARE)

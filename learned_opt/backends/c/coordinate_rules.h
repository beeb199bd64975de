/* What the steps of coordinate-wise rules share: a list of tensors, the check before the step, and
 * the loop over blocks.
 *
 * The state of n tensors lies unit by unit: a number per coordinate in [size], H of them in
 * [H, size]. */
#ifndef LEARNED_OPT_COORDINATE_RULES_H
#define LEARNED_OPT_COORDINATE_RULES_H

#include <stddef.h>
#include <stdint.h>

#include "lstm.h"

/* Numbers beyond this are left to Python: below it, nothing in a step can overflow. */
#define SAFE 1e15f

/* Most coordinates of a task: enough that taking a task costs nothing. */
#define LONG_BLOCK (64 * BLOCK)

typedef struct {
    long n;
    const int64_t *sizes;
    float *const *places; /* [roles, n]: parameter, gradient, step, then the state */
    const double *rates;  /* [n, 2]: learning rate and weight decay */
    double sign;          /* of the gradient: -1 to maximize */
} tensor_list;

enum { PARAMETER, GRADIENT, STEP, STATE };

static inline float *place(const tensor_list *list, long role, long tensor) {
    return list->places[role * list->n + tensor];
}

/* Consecutive coordinates of one tensor. */
typedef struct {
    long tensor, start, count, size;
    float step; /* counts from 1 */
} block;

typedef void (*block_function)(const void *rule, const tensor_list *list, const block *at,
                               void *scratch);

/* Step all tensors that are safe to step.
 *
 * function: gets at most BLOCK coordinates at once if it has scratch memory, for rows; else at most
 * LONG_BLOCK.
 * state_rows: numbers per coordinate in each state tensor, `states` of them.
 * trusted: [n], 1 where the state is known to be within SAFE; the others are looked at first.
 * longest: a bound on the magnitude of the rule's updates.
 * untouched: [n], gets 1 where a tensor is not safe and was left as it is, else 0.
 * Returns 0, or -1 if there is no memory; then nothing has changed. */
int step_coordinates(const tensor_list *list, block_function function, const void *rule,
                     size_t scratch_bytes, long states, const int64_t *state_rows,
                     const uint8_t *trusted, double longest, uint8_t *untouched, long threads);

/* p <- p + lr update - lr decay p for the parameters of a block. */
void move_parameters(const tensor_list *list, const block *at, const float *update);

/* 1 - beta^step, by which an average that began at 0 is too small. */
float correction(double beta, float step);

/* The largest magnitude; infinity if one is infinite or no number. */
float largest_magnitude(const float *x, long count);

#endif

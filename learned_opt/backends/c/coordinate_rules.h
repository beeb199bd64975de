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

/* Numbers beyond this are left to Python: below it, nothing in a step can overflow. Averages of such
 * numbers, and of their squares, stay below the others. */
#define SAFE 1e15f
#define SAFE_AVERAGE (2 * SAFE)
#define SAFE_SQUARE (4 * SAFE * SAFE)

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
    long ahead; /* to what this thread may step after it */
    float step; /* counts from 1 */
} block;

typedef void (*block_function)(const void *rule, const tensor_list *list, const block *at,
                               void *scratch);

/* What a state tensor must be for a step to be safe. */
typedef struct {
    int64_t rows; /* numbers per coordinate */
    float most;   /* their largest magnitude */
    int is_square; /* whether they may not be negative */
} state_bounds;

/* What is left to Python.
 *
 * Each tensor is cut into pieces of `length` coordinates, and a shorter last one. A piece with a
 * parameter or a state out of bounds is doubtful, and left as it is. */
typedef struct {
    long length; /* a power of two, at most 4096 */
    uint8_t *untouched; /* [n]: gets 1 where all of a tensor was left as it is, else 0 */
    uint8_t *doubtful;  /* for each piece, tensor by tensor: gets 1 where it was left, else 0 */
} leftovers;

/* Step all tensors that are safe to step.
 *
 * A tensor is untouched if its gradient is out of bounds anywhere, or if all of its pieces are
 * doubtful. `step` of the others advances.
 *
 * function: gets at most BLOCK coordinates at once if it has scratch memory, for rows; else at most
 * a piece.
 * bounds: of each state tensor, `states` of them.
 * longest: a bound on the magnitude of the rule's updates.
 * Returns 0, or -1 if there is no memory; then nothing has changed. */
int step_coordinates(const tensor_list *list, block_function function, const void *rule,
                     size_t scratch_bytes, long states, const state_bounds *bounds, double longest,
                     const leftovers *left, long threads);

/* p <- p + lr update - lr decay p for the parameters of a block. */
void move_parameters(const tensor_list *list, const block *at, const float *update);

/* 1 - beta^step, by which an average that began at 0 is too small. */
float correction(double beta, float step);

/* The largest magnitude; infinity if one is infinite or no number. */
float largest_magnitude(const float *x, long count);

#endif

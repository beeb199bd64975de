/* A step of `learned_opt.rules.step_size_lstm.StepSizeLSTM`: sums over its tensors, the network that
 * steers each tensor, and the move. */
#ifndef LEARNED_OPT_STEP_SIZE_H
#define LEARNED_OPT_STEP_SIZE_H

#include "coordinate_rules.h"
#include "pieces.h"

#define FEATURES 18
#define CONTROLS 7
#define SCALAR_COUNT 8

/* Sums of a tensor; the last is that of v after the step, to see that it is finite. */
#define SUMS 24
/* The parameter and the four directions that are mixed. */
#define DIRECTIONS 5

/* The state, after the parameter, the gradient and the step. */
enum { M9 = STATE, M99, V, MEMORY_H, MEMORY_C, SCALARS };

/* The order of the settings, of the weights, and of the whole numbers, as Python hands them in. */
enum {
    LOSS, PLANNED, DEFAULT_LR, WARM_UP, LAST, DIRECTION_FLOOR, LEAST_LOG, MOST_LOG, RMS_FLOOR,
    KEPT_LOG, KEPT_FAST, KEPT_SLOW, TINY, SETTINGS
};
enum { LSTM_WEIGHT, LSTM_BIAS, HEAD_WEIGHT, HEAD_BIAS, SHIFT, SCALE, WEIGHTS };
enum { UNITS, HAS_LOSS, PARAMETER_SCALE };

typedef struct {
    const float *const *weights;
    const double *setting;
    const int64_t *whole;
} network;

typedef struct numbers numbers;

/* Room for what a step computes of n tensors. */
typedef struct {
    pieces pieces;
    double *sums;     /* [n, SUMS] */
    numbers *numbers; /* [n] */
    float *memory;    /* [n, 2 units]: the new h and c */
    float *mixed;     /* [n, DIRECTIONS]: weights of the directions in the move */
    float *shrink;    /* [n] */
    float *seen;      /* [FEATURES + 5 units], for the network of one tensor */
} step_space;

/* Make room for steps of tensors of these sizes. Returns 0, or -1 without memory. */
int make_step_space(step_space *space, long n, const int64_t *sizes, long units);

void free_step_space(step_space *space);

/* Step the tensors of a list, or none; is_vector, [n]: 1 for at most one dimension. Returns whether
 * it stepped them. */
int step_tensors(const network *net, const tensor_list *list, const uint8_t *is_vector,
                 step_space *space, long threads);

/* Write the sums of all tensors, [n, 24]; the pieces have room for those of each. */
void sum_step_sizes(const pieces *all, const tensor_list *list, double *sums, long threads);

/* Move the averages and the parameters: by the sum of the directions times `weights`, [n, 5], minus
 * `shrink`, [n], times the parameter. */
void move_step_sizes(const pieces *all, const tensor_list *list, const float *weights,
                     const float *shrink, long threads);

#endif

/* The two passes of the rule step-size-lstm over its tensors. */
#ifndef LEARNED_OPT_STEP_SIZE_H
#define LEARNED_OPT_STEP_SIZE_H

#include "coordinate_rules.h"
#include "pieces.h"

/* Sums of a tensor; the last is that of v after the step, to see that it is finite. */
#define SUMS 24
/* The parameter and the four directions that are mixed. */
#define DIRECTIONS 5

/* The state, after the parameter, the gradient and the step. */
enum { M9 = STATE, M99, V, MEMORY_H, MEMORY_C, SCALARS };

/* Pieces of the tensors with room for the sums of each. Returns 0, or -1 without memory. */
int make_step_size_pieces(pieces *all, const tensor_list *list);

/* Write the sums of all tensors, [n, 24]. */
void sum_step_sizes(const pieces *all, const tensor_list *list, double *sums, long threads);

/* Move the averages and the parameters: by the sum of the directions times `weights`, [n, 5], minus
 * `shrink`, [n], times the parameter. */
void move_step_sizes(const pieces *all, const tensor_list *list, const float *weights,
                     const float *shrink, long threads);

#endif

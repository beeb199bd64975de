/* The functions of vector_math.h on arrays, so that a test can compare them with exact ones. */
#include "vector_math.h"

/* which: 0 exponential, 1 sigmoid, 2 hyperbolic tangent, 3 logarithm. */
int learned_opt_elementary(int64_t which, int64_t n, const float *x, float *y) {
    for (int64_t k = 0; k < n; k++) {
        float value = x[k];
        y[k] = which == 0   ? exponential(value)
               : which == 1 ? sigmoid(value)
               : which == 2 ? hyperbolic_tangent(value)
                            : logarithm(value);
    }
    return 0;
}

/* Scatters rows of an array into small tensors. */
#include <stdint.h>
#include <string.h>

/* Copy the rows of `rows`, [n, length], into n tensors of `length` floats. Returns 0. */
int learned_opt_scatter(int64_t n, int64_t length, float *const *tensors, const float *rows) {
    for (long k = 0; k < n; k++) memcpy(tensors[k], rows + k * length, length * sizeof(float));
    return 0;
}

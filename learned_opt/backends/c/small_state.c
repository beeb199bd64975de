/* Gathers small tensors into the rows of an array, and scatters the rows back. */
#include <stdint.h>
#include <string.h>

/* Copy n tensors of `length` floats into `rows`, [n, length]. Returns 0. */
int learned_opt_gather(int64_t n, int64_t length, float *const *tensors, float *rows) {
    for (long k = 0; k < n; k++) memcpy(rows + k * length, tensors[k], length * sizeof(float));
    return 0;
}

/* Copy the rows of `rows`, [n, length], into n tensors. Returns 0. */
int learned_opt_scatter(int64_t n, int64_t length, float *const *tensors, const float *rows) {
    for (long k = 0; k < n; k++) memcpy(tensors[k], rows + k * length, length * sizeof(float));
    return 0;
}

/* Reads small tensors of several kinds into one array, and writes them back. */
#include <stdint.h>
#include <string.h>

/* The tensors lie by kind, [kinds, n]; those of kind k have lengths[k] floats. In `rows` each kind
 * is an array [n, length], one after the other. Both return 0. */

int learned_opt_gather(int64_t n, int64_t kinds, const int64_t *lengths,
                       const float *const *tensors, float *rows) {
    for (long kind = 0; kind < kinds; kind++)
        for (long k = 0; k < n; k++, rows += lengths[kind])
            memcpy(rows, tensors[kind * n + k], lengths[kind] * sizeof(float));
    return 0;
}

int learned_opt_scatter(int64_t n, int64_t kinds, const int64_t *lengths, float *const *tensors,
                        const float *rows) {
    for (long kind = 0; kind < kinds; kind++)
        for (long k = 0; k < n; k++, rows += lengths[kind])
            memcpy(tensors[kind * n + k], rows, lengths[kind] * sizeof(float));
    return 0;
}

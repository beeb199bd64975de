/* Steps of hand-made rules, and the largest magnitude of tensors, for lists of tensors. */
#include <stdint.h>
#include <string.h>

#include "parallel.h"
#include "pieces.h"

typedef struct {
    const pieces *pieces;
    const float *const *tensors;
    uint32_t *largest; /* of each piece */
} magnitude_job;

static void piece_magnitude(void *shared, long task) {
    const magnitude_job *job = shared;
    piece at = job->pieces->piece[task];
    const float *x = job->tensors[at.tensor] + at.start;
    uint32_t most = 0;
    /* Without their sign, the bits of floats are in the order of magnitudes, NaN above all. */
#pragma omp simd reduction(max : most)
    for (long i = 0; i < at.count; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], 4);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    job->largest[task] = most;
}

/* largest[k] = the largest magnitude in tensor k; NaN or infinity if it has one, 0 if it is empty.
 * Returns 0, or -1 if there is no memory. */
int learned_opt_largest(int64_t n, const int64_t *sizes, const float *const *tensors,
                        float *largest, int64_t threads) {
    pieces all;
    if (make_pieces(&all, n, sizes, sizeof(uint32_t))) return -1;
    magnitude_job job = {&all, tensors, all.results};
    run_tasks(piece_magnitude, &job, all.count, threads);
    memset(largest, 0, n * sizeof(float));
    for (long task = 0; task < all.count; task++) {
        uint32_t most;
        float *place = &largest[all.piece[task].tensor];
        memcpy(&most, place, 4);
        if (job.largest[task] > most) memcpy(place, &job.largest[task], 4);
    }
    free_pieces(&all);
    return 0;
}

typedef struct {
    const pieces *pieces;
    float *const *parameters;
    const float *const *gradients;
    const double *rates;
    double sign;
} sgd_job;

static void piece_sgd(void *shared, long task) {
    const sgd_job *job = shared;
    piece at = job->pieces->piece[task];
    float *p = job->parameters[at.tensor] + at.start;
    const float *g = job->gradients[at.tensor] + at.start;
    double lr = job->rates[2 * at.tensor], decay = job->rates[2 * at.tensor + 1];
    float step = (float)(-job->sign * lr), shrink = (float)(lr * decay);
#pragma omp simd
    for (long i = 0; i < at.count; i++) p[i] = p[i] + step * g[i] - shrink * p[i];
}

/* p <- p - lr (sign g) - lr decay p, for n tensors; rates are (lr, decay) of each.
 * Returns 0, or -1 if there is no memory; then nothing has changed. */
int learned_opt_sgd(int64_t n, const int64_t *sizes, float *const *parameters,
                    const float *const *gradients, const double *rates, double sign,
                    int64_t threads) {
    pieces all;
    if (make_pieces(&all, n, sizes, 0)) return -1;
    sgd_job job = {&all, parameters, gradients, rates, sign};
    run_tasks(piece_sgd, &job, all.count, threads);
    free_pieces(&all);
    return 0;
}

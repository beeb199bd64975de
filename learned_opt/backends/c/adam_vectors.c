/* Adam's step for the vectors of `learned_opt.rules.orthogonal_momentum`, in two passes.
 *
 * The first finds norms, which decide whether and how far to step; the second steps. Both compute
 * the moments and the direction anew: to keep them would cost more time, and a vector's memory. */
#include <stdint.h>

#include "parallel.h"

/* Coordinates of a sum in single precision. */
#define SUMMED 1024L

enum { MOMENTUM, SQUARE, GRADIENT, PARAMETER };
enum { DIRECTION, NEW_MOMENTUM, NEW_SQUARE, SUMS };

/* Coordinates of a tensor from `start` on: a task. */
typedef struct {
    int64_t tensor, start, count;
} piece;

typedef struct {
    long n;
    const piece *pieces;
    float *const *places;
    float keep, take, keep_v, take_v, whole, whole_v;
    const double *factors;
    double (*sums)[SUMS];
} work;

static float *place(const work *w, long kind, const piece *at) {
    return w->places[kind * w->n + at->tensor] + at->start;
}

/* The new moments of a coordinate, and Adam's direction, which is 0 without gradients so far. */
#define NEW_VALUES(w, k)                                                                           \
    float m = (w)->keep * m_[k] + (w)->take * g[k];                                                \
    float v = (w)->keep_v * v_[k] + (w)->take_v * g[k] * g[k];                                     \
    float root = __builtin_sqrtf(v / (w)->whole_v);                                                \
    float direction = root == 0 ? 0.0f : m / (w)->whole / root

static void sum_piece(void *shared, long task) {
    work *w = shared;
    const piece *at = &w->pieces[task];
    const float *m_ = place(w, MOMENTUM, at), *v_ = place(w, SQUARE, at);
    const float *g = place(w, GRADIENT, at);
    double total[SUMS] = {0};
    for (long start = 0; start < at->count; start += SUMMED) {
        long end = start + SUMMED < at->count ? start + SUMMED : at->count;
        float of_direction = 0, of_m = 0, of_v = 0;
#pragma omp simd reduction(+ : of_direction, of_m, of_v)
        for (long k = start; k < end; k++) {
            NEW_VALUES(w, k);
            of_direction += direction * direction;
            of_m += m * m;
            of_v += v * v;
        }
        total[DIRECTION] += of_direction;
        total[NEW_MOMENTUM] += of_m;
        total[NEW_SQUARE] += of_v;
    }
    for (int k = 0; k < SUMS; k++) w->sums[task][k] = total[k];
}

static void step_piece(void *shared, long task) {
    work *w = shared;
    const piece *at = &w->pieces[task];
    float *restrict m_ = place(w, MOMENTUM, at), *restrict v_ = place(w, SQUARE, at);
    float *restrict p = place(w, PARAMETER, at), factor = (float)w->factors[at->tensor];
    const float *restrict g = place(w, GRADIENT, at);
#pragma omp simd
    for (long k = 0; k < at->count; k++) {
        NEW_VALUES(w, k);
        m_[k] = m;
        v_[k] = v;
        p[k] += factor * direction;
    }
}

static work begin(int64_t n, const piece *pieces, float *const *places, const double *constants) {
    return (work){.n = n, .pieces = pieces, .places = places,
                  .keep = (float)constants[0], .take = (float)constants[1],
                  .keep_v = (float)constants[2], .take_v = (float)constants[3],
                  .whole = (float)constants[4], .whole_v = (float)constants[5]};
}

/* Sums of squares of the direction, the new m and the new v of each piece of n vectors.
 *
 * pieces: [count, 3]: tensor, start and number of coordinates.
 * places: [4, n]: m, v, gradient, parameter.
 * constants: b1, the share of the gradient in m (negative to maximise), b2, 1 - b2, and the bias
 * corrections of m and v.
 * sums: [count, 3]. */
int learned_opt_vector_sums(int64_t n, int64_t count, const piece *pieces, float *const *places,
                            const double *constants, double *sums, int64_t threads) {
    work w = begin(n, pieces, places, constants);
    w.sums = (double(*)[SUMS])sums;
    run_tasks(sum_piece, &w, count, threads);
    return 0;
}

/* Write the new moments, and add a multiple of its direction, factors [n], to each parameter. */
int learned_opt_vector_step(int64_t n, int64_t count, const piece *pieces, float *const *places,
                            const double *constants, const double *factors, int64_t threads) {
    work w = begin(n, pieces, places, constants);
    w.factors = factors;
    run_tasks(step_piece, &w, count, threads);
    return 0;
}

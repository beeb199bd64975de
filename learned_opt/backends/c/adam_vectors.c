/* Adam's step for the vectors of `learned_opt.rules.orthogonal_momentum`, in two passes.
 *
 * The first finds norms, which decide whether and how far to step; the second steps. Both compute
 * the moments and the direction anew: to keep them would cost more time, and a vector's memory. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "parallel.h"

/* Coordinates of a task, and of a sum in single precision. */
#define BLOCK (1L << 14)
#define SUMMED 1024L

enum { MOMENTUM, SQUARE, GRADIENT, PARAMETER };
enum { DIRECTION, NEW_MOMENTUM, NEW_SQUARE, SUMS };

typedef struct {
    long tensor, start, count;
} piece;

typedef struct {
    long n;
    const int64_t *sizes;
    float *const *places;
    float keep, take, keep_v, take_v, whole, whole_v;
    const double *factors;
    piece *pieces;
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

/* Cut the tensors into pieces; their number, or -1 where memory lacks. */
static long cut(work *w) {
    long count = 0;
    for (long t = 0; t < w->n; t++) count += (w->sizes[t] + BLOCK - 1) / BLOCK;
    w->pieces = malloc(count * sizeof(piece) + 1);
    if (!w->pieces) return -1;
    piece *to = w->pieces;
    for (long t = 0; t < w->n; t++)
        for (long start = 0; start < w->sizes[t]; start += BLOCK) {
            long left = w->sizes[t] - start;
            *to++ = (piece){t, start, left < BLOCK ? left : BLOCK};
        }
    return count;
}

static work begin(int64_t n, const int64_t *sizes, float *const *places, const double *constants) {
    return (work){.n = n, .sizes = sizes, .places = places,
                  .keep = (float)constants[0], .take = (float)constants[1],
                  .keep_v = (float)constants[2], .take_v = (float)constants[3],
                  .whole = (float)constants[4], .whole_v = (float)constants[5]};
}

/* Norms of n vectors' directions, new m and new v.
 *
 * places: [4, n]: m, v, gradient, parameter.
 * constants: b1, the share of the gradient in m (negative to maximise), b2, 1 - b2, and the bias
 * corrections of m and v.
 * found: [3, n]. */
int learned_opt_vector_norms(int64_t n, const int64_t *sizes, float *const *places,
                             const double *constants, double *found, int64_t threads) {
    work w = begin(n, sizes, places, constants);
    long count = cut(&w);
    w.sums = count < 0 ? 0 : malloc(count * sizeof *w.sums + 1);
    if (!w.sums) {
        free(w.pieces);
        return 1;
    }
    run_tasks(sum_piece, &w, count, threads);
    /* In the order of the pieces, whichever thread had them. */
    for (long k = 0; k < SUMS * n; k++) found[k] = 0;
    for (long task = 0; task < count; task++)
        for (int k = 0; k < SUMS; k++) found[k * n + w.pieces[task].tensor] += w.sums[task][k];
    for (long k = 0; k < SUMS * n; k++) found[k] = sqrt(found[k]);
    free(w.sums);
    free(w.pieces);
    return 0;
}

/* Write the new moments, and add a multiple of its direction, factors [n], to each parameter. */
int learned_opt_vector_step(int64_t n, const int64_t *sizes, float *const *places,
                            const double *constants, const double *factors, int64_t threads) {
    work w = begin(n, sizes, places, constants);
    w.factors = factors;
    long count = cut(&w);
    if (count < 0) return 1;
    run_tasks(step_piece, &w, count, threads);
    free(w.pieces);
    return 0;
}

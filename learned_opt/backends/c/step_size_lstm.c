/* The two passes of the rule step-size-lstm over its tensors: the sums, then the step.
 *
 * learned_opt/rules/tensor_directions.py has the equations and says what the sums are. Both passes
 * compute the new averages, so that the first one writes nothing. */
#include <math.h>
#include <stdint.h>

#include "parallel.h"
#include "pieces.h"

/* Sums of a tensor; the last is that of v after the step, to see that it is finite. */
#define SUMS 24
/* So many elements are added up in float before they are added in double. */
#define BLOCK 4096

#define EPS 1e-24f

/* In double: 1 - 0.99f would be off by 1e-6. */
static const float FAST = (float)(1.0 - 0.9), SLOW = (float)(1.0 - 0.99);
static const float KEPT = 0.99f, SQUARE = (float)(1.0 - 0.99);

typedef struct {
    const pieces *pieces;
    /* Gradients, parameters, m9, m99, v: n pointers each. */
    float *const *gradients, *const *parameters, *const *m9, *const *m99, *const *v;
    float sign;
    const float *weights; /* of the five directions, for each tensor; with the learning rate */
    const float *shrink;  /* weight decay times learning rate, of each tensor */
} job;

static void add_block(const float *g_, const float *p_, const float *m9_, const float *m99_,
                      const float *v_, long count, float sign, double *sums) {
    float gg = 0, gm = 0, gs = 0, ga = 0, mm = 0, ss = 0, aa = 0, pp = 0;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0, s8 = 0, s9 = 0;
    float s10 = 0, s11 = 0, s12 = 0, s13 = 0, s14 = 0, vv = 0;
#pragma omp simd reduction(+ : gg, gm, gs, ga, mm, ss, aa, pp, s0, s1, s2, s3, s4, s5, s6, s7, s8, \
                               s9, s10, s11, s12, s13, s14, vv)
    for (long i = 0; i < count; i++) {
        float g = sign * g_[i], p = p_[i], m = m9_[i], s = m99_[i], v = v_[i];
        float a = m / sqrtf(v + EPS);
        gg += g * g, gm += g * m, gs += g * s, ga += g * a;
        mm += m * m, ss += s * s, aa += a * a, pp += p * p;
        m += FAST * (g - m);
        s += SLOW * (g - s);
        v = KEPT * v + SQUARE * g * g;
        float inverse = 1 / sqrtf(v + EPS);
        float q = v != 0 ? p : 0, d = m * inverse, e = s * inverse, h = g * inverse;
        s0 += q * q, s1 += q * d, s2 += q * e, s3 += q * m, s4 += q * h;
        s5 += d * d, s6 += d * e, s7 += d * m, s8 += d * h;
        s9 += e * e, s10 += e * m, s11 += e * h;
        s12 += m * m, s13 += m * h, s14 += h * h;
        vv += v;
    }
    const float all[SUMS] = {gg, gm, gs, ga, mm, ss, aa, pp, s0,  s1,  s2,  s3,
                             s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, vv};
    for (int k = 0; k < SUMS; k++) sums[k] += all[k];
}

static void piece_sums(void *shared, long task) {
    const job *j = shared;
    piece at = j->pieces->piece[task];
    double *sums = (double *)j->pieces->results + SUMS * task;
    for (long done = 0; done < at.count; done += BLOCK) {
        long from = at.start + done, left = at.count - done, k = at.tensor;
        add_block(j->gradients[k] + from, j->parameters[k] + from, j->m9[k] + from,
                  j->m99[k] + from, j->v[k] + from, left < BLOCK ? left : BLOCK, j->sign, sums);
    }
}

static void piece_step(void *shared, long task) {
    const job *j = shared;
    piece at = j->pieces->piece[task];
    long k = at.tensor;
    const float *restrict g_ = j->gradients[k] + at.start;
    float *restrict p_ = j->parameters[k] + at.start, *restrict m9_ = j->m9[k] + at.start;
    float *restrict m99_ = j->m99[k] + at.start, *restrict v_ = j->v[k] + at.start;
    const float *w = j->weights + 5 * k;
    float sign = j->sign, shrink = j->shrink[k];
    float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4];
#pragma omp simd
    for (long i = 0; i < at.count; i++) {
        float g = sign * g_[i], p = p_[i];
        float m = m9_[i] + FAST * (g - m9_[i]);
        float s = m99_[i] + SLOW * (g - m99_[i]);
        float v = KEPT * v_[i] + SQUARE * g * g;
        float move = (w1 * m + w2 * s + w4 * g) / sqrtf(v + EPS) + w3 * m + w0 * p;
        m9_[i] = m, m99_[i] = s, v_[i] = v;
        p_[i] = p + (v != 0 ? move : 0) - shrink * p;
    }
}

static job begin(const pieces *all, long n, float *const *tensors, double sign) {
    return (job){all,          tensors, tensors + n, tensors + 2 * n, tensors + 3 * n,
                 tensors + 4 * n, (float)sign, 0, 0};
}

/* Write the sums of n tensors, [n, 24]. `tensors` are the gradients, the parameters, and the
 * averages m9, m99 and v, n pointers each. Returns 0, or -1 without memory. */
int learned_opt_step_size_sums(int64_t n, const int64_t *sizes, float *const *tensors, double sign,
                               double *sums, int64_t threads) {
    pieces all;
    if (make_pieces(&all, n, sizes, SUMS * sizeof(double))) return -1;
    job j = begin(&all, n, tensors, sign);
    run_tasks(piece_sums, &j, all.count, threads);
    for (long k = 0; k < n * SUMS; k++) sums[k] = 0;
    for (long task = 0; task < all.count; task++)
        for (int k = 0; k < SUMS; k++)
            sums[SUMS * all.piece[task].tensor + k] += ((double *)all.results)[SUMS * task + k];
    free_pieces(&all);
    return 0;
}

/* Move the averages and the parameters of n tensors: by the sum of the directions times `weights`,
 * [n, 5], minus `shrink` times the parameter. Returns 0, or -1 without memory, and then nothing has
 * changed. */
int learned_opt_step_size_step(int64_t n, const int64_t *sizes, float *const *tensors, double sign,
                               const float *weights, const float *shrink, int64_t threads) {
    pieces all;
    if (make_pieces(&all, n, sizes, 0)) return -1;
    job j = begin(&all, n, tensors, sign);
    j.weights = weights, j.shrink = shrink;
    run_tasks(piece_step, &j, all.count, threads);
    free_pieces(&all);
    return 0;
}

/* The two passes of the rule step-size-lstm over its tensors: the sums, then the step.
 *
 * learned_opt/rules/parts/tensor_directions.py has the equations and says what the sums are. Both passes
 * compute the new averages, so that the first one writes nothing. */
#include "step_size.h"

#include <math.h>

#include "parallel.h"

/* So many elements are added up in float before they are added in double. */
#define ADDED 4096

#define EPS 1e-24f

/* In double: 1 - 0.99f would be off by 1e-6. */
static const float FAST = (float)(1.0 - 0.9), SLOW = (float)(1.0 - 0.99);
static const float KEPT = 0.99f, SQUARE = (float)(1.0 - 0.99);

typedef struct {
    const pieces *pieces;
    const tensor_list *list;
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

static inline float *at(const job *j, long role, const piece *here) {
    return place(j->list, role, here->tensor) + here->start;
}

static void piece_sums(void *shared, long task) {
    const job *j = shared;
    const piece *here = &j->pieces->piece[task];
    const float *g = at(j, GRADIENT, here), *p = at(j, PARAMETER, here), *m9 = at(j, M9, here);
    const float *m99 = at(j, M99, here), *v = at(j, V, here);
    double *sums = (double *)j->pieces->results + SUMS * task;
    for (int k = 0; k < SUMS; k++) sums[k] = 0;
    for (long done = 0; done < here->count; done += ADDED) {
        long left = here->count - done;
        add_block(g + done, p + done, m9 + done, m99 + done, v + done, left < ADDED ? left : ADDED,
                  (float)j->list->sign, sums);
    }
}

static void piece_step(void *shared, long task) {
    const job *j = shared;
    const piece *here = &j->pieces->piece[task];
    const float *restrict g_ = at(j, GRADIENT, here);
    float *restrict p_ = at(j, PARAMETER, here), *restrict m9_ = at(j, M9, here);
    float *restrict m99_ = at(j, M99, here), *restrict v_ = at(j, V, here);
    const float *w = j->weights + DIRECTIONS * here->tensor;
    float sign = (float)j->list->sign, shrink = j->shrink[here->tensor];
    float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4];
#pragma omp simd
    for (long i = 0; i < here->count; i++) {
        float g = sign * g_[i], p = p_[i];
        float m = m9_[i] + FAST * (g - m9_[i]);
        float s = m99_[i] + SLOW * (g - m99_[i]);
        float v = KEPT * v_[i] + SQUARE * g * g;
        float move = (w1 * m + w2 * s + w4 * g) / sqrtf(v + EPS) + w3 * m + w0 * p;
        m9_[i] = m, m99_[i] = s, v_[i] = v;
        p_[i] = p + (v != 0 ? move : 0) - shrink * p;
    }
}

void sum_step_sizes(const pieces *all, const tensor_list *list, double *sums, long threads) {
    job j = {all, list, 0, 0};
    run_tasks(piece_sums, &j, all->count, threads);
    for (long k = 0; k < list->n * SUMS; k++) sums[k] = 0;
    for (long task = 0; task < all->count; task++)
        for (int k = 0; k < SUMS; k++)
            sums[SUMS * all->piece[task].tensor + k] += ((double *)all->results)[SUMS * task + k];
}

void move_step_sizes(const pieces *all, const tensor_list *list, const float *weights,
                     const float *shrink, long threads) {
    job j = {all, list, weights, shrink};
    run_tasks(piece_step, &j, all->count, threads);
}

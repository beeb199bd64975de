#include "coordinate_rules.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "parallel.h"
#include "vector_math.h"

float largest_magnitude(const float *x, long count) {
    uint32_t most = 0;
    /* Without their sign, the bits of floats are in the order of magnitudes, NaN above all. */
#pragma omp simd reduction(max : most)
    for (long k = 0; k < count; k++) {
        uint32_t bits = to_bits(x[k]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    return most > 0x7f800000u ? INFINITY : from_bits(most);
}

typedef struct {
    long tensor, start, count;
} task;

typedef struct {
    const tensor_list *list;
    block_function function;
    const void *rule;
    size_t scratch_bytes;
    long states, tasks;
    const int64_t *state_rows;
    const uint8_t *trusted;
    const uint8_t *untouched;
    task *task;
    float (*found)[3]; /* for each task the largest parameter, gradient and state */
} job;

static void look(void *shared, long number) {
    const job *all = shared;
    const task *at = &all->task[number];
    float *found = all->found[number];
    found[0] = largest_magnitude(place(all->list, PARAMETER, at->tensor) + at->start, at->count);
    found[1] = largest_magnitude(place(all->list, GRADIENT, at->tensor) + at->start, at->count);
    found[2] = 0;
    if (all->trusted[at->tensor]) return;
    float steps = *place(all->list, STEP, at->tensor);
    found[2] = steps >= 0 ? steps : INFINITY; /* corrections need a count */
    for (long state = 0; state < all->states; state++)
        for (long unit = 0; unit < all->state_rows[state]; unit++) {
            const float *from = place(all->list, STATE + state, at->tensor) +
                                unit * all->list->sizes[at->tensor] + at->start;
            found[2] = larger(found[2], largest_magnitude(from, at->count));
        }
}

static void step(void *shared, long number) {
    const job *all = shared;
    const task *at = &all->task[number];
    if (all->untouched[at->tensor]) return;
    long size = all->list->sizes[at->tensor];
    block here = {at->tensor, 0, 0, size, *place(all->list, STEP, at->tensor) + 1};
    char space[all->scratch_bytes + 64];
    void *scratch = (void *)(((uintptr_t)space + 63) / 64 * 64);
    long most = all->scratch_bytes ? BLOCK : LONG_BLOCK;
    for (long start = 0; start < at->count; start += most) {
        here.start = at->start + start;
        here.count = at->count - start < most ? at->count - start : most;
        all->function(all->rule, all->list, &here, scratch);
    }
}

int step_coordinates(const tensor_list *list, block_function function, const void *rule,
                     size_t scratch_bytes, long states, const int64_t *state_rows,
                     const uint8_t *trusted, double longest, uint8_t *untouched, long threads) {
    long tasks = 0, length = LONG_BLOCK;
    for (long k = 0; k < list->n; k++) tasks += (list->sizes[k] + length - 1) / length;
    job all = {list, function, rule, scratch_bytes, states, tasks, state_rows, trusted, untouched,
               malloc((tasks + 1) * sizeof(task)), calloc(tasks + 1, 3 * sizeof(float))};
    int failed = !all.task || !all.found;
    if (!failed) {
        long number = 0;
        for (long k = 0; k < list->n; k++)
            for (long start = 0; start < list->sizes[k]; start += length) {
                long left = list->sizes[k] - start;
                all.task[number++] = (task){k, start, left < length ? left : length};
            }
        run_tasks(look, &all, tasks, threads);
        memset(untouched, 0, list->n);
        for (number = 0; number < tasks; number++) {
            long k = all.task[number].tensor;
            const float *found = all.found[number];
            double lr = fabs(list->rates[2 * k]), decay = fabs(list->rates[2 * k + 1]);
            double moved = found[0] * (1 + lr * decay) + lr * longest;
            /* Written so that a bound that is no number is not safe, either. */
            if (!(found[0] < SAFE && found[1] < SAFE && found[2] < SAFE && moved < 3e38 &&
                  lr < 3e38 && lr * decay < 3e38))
                untouched[k] = 1;
        }
        run_tasks(step, &all, tasks, threads);
        for (long k = 0; k < list->n; k++)
            if (!untouched[k]) *place(list, STEP, k) += 1;
    }
    free(all.task);
    free(all.found);
    return failed ? -1 : 0;
}

float correction(double beta, float step) {
    return beta == 0 ? 1.0f : (float)-expm1(step * log(beta));
}

void move_parameters(const tensor_list *list, const block *at, const float *update) {
    float *parameter = place(list, PARAMETER, at->tensor) + at->start;
    double rate = list->rates[2 * at->tensor], decay = list->rates[2 * at->tensor + 1];
    float lr = (float)rate, shrink = (float)(rate * decay);
#pragma omp simd
    for (long k = 0; k < at->count; k++)
        parameter[k] = parameter[k] + lr * update[k] - shrink * parameter[k];
}

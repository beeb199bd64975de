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

/* Coordinates of a task: enough that taking it costs nothing. */
#define TASK (1L << 12)

/* Tensors that are looked at together before they are stepped: so many coordinates that most of what
 * the first pass reads is still in the cache in the second. */
#define GROUP (1L << 19)

typedef struct {
    long tensor, start, count;
    uint8_t *doubtful; /* of its first piece */
    uint8_t is_safe;   /* whether the gradient is in bounds */
} task;

typedef struct {
    const tensor_list *list;
    block_function function;
    const void *rule;
    size_t scratch_bytes;
    long states;
    const state_bounds *bounds;
    long length; /* of a piece */
    long ahead;  /* from a task to the next one of the same thread, if all are equally fast */
    uint8_t *untouched;
    task *task; /* of the group */
} job;

static void look(void *shared, long number) {
    const job *all = shared;
    task *at = &all->task[number];
    const float *gradient = place(all->list, GRADIENT, at->tensor) + at->start;
    at->is_safe = largest_magnitude(gradient, at->count) < SAFE;
}

/* Set bits of `beyond` if one of [rows, size] numbers is out of bounds in the first `count` columns.
 * Without their sign, the bits of floats are in the order of magnitudes, NaN above all; with it, all
 * negative ones are above the others. */
static inline void look_beyond(const state_bounds *bounds, const float *from, long size, long count,
                               vector_bits *beyond) {
    uint32_t kept = bounds->is_square ? ~0u : 0x7fffffffu;
    vector_bits most[VECTORS] = {{0}};
    for (long row_start = 0; row_start < bounds->rows * size; row_start += size)
        for (long start = 0; start < count; start += BLOCK) {
            const float *at = from + row_start + start;
            row last;
            if (count - start < BLOCK) {
                copy_row(last, at, count - start);
                at = last;
            }
            EACH(v, VECTORS) {
                vector_bits bits;
                memcpy(&bits, at + v * LANES, sizeof bits);
                most[v] = greater_bits(most[v], bits & kept);
            }
        }
    EACH(v, VECTORS) *beyond |= (vector_bits)(most[v] >= to_bits(bounds->most));
}

/* Whether parameters and state are in bounds. They are in the cache then, for the step. */
static int are_in_bounds(const job *all, long tensor, long start, long count) {
    const tensor_list *list = all->list;
    const state_bounds parameter = {1, SAFE, 0};
    long size = list->sizes[tensor];
    vector_bits beyond = {0};
    look_beyond(&parameter, place(list, PARAMETER, tensor) + start, size, count, &beyond);
    for (long k = 0; k < all->states; k++)
        look_beyond(&all->bounds[k], place(list, STATE + k, tensor) + start, size, count, &beyond);
    uint32_t any = 0;
    EACH(k, LANES) any |= beyond[k];
    return !any;
}

static void step(void *shared, long number) {
    const job *all = shared;
    const task *at = &all->task[number];
    long size = all->list->sizes[at->tensor], length = all->length;
    long most = all->scratch_bytes && length > BLOCK ? BLOCK : length;
    long ahead = at->start + all->ahead < size ? all->ahead : 0;
    block here = {at->tensor, 0, 0, size, ahead, *place(all->list, STEP, at->tensor) + 1};
    char space[all->scratch_bytes + 64];
    void *scratch = (void *)(((uintptr_t)space + 63) / 64 * 64);
    for (long done = 0; done < at->count; done += length) {
        long start = at->start + done;
        long end = at->start + (at->count - done < length ? at->count : done + length);
        uint8_t *doubtful = at->doubtful + done / length;
        *doubtful = all->untouched[at->tensor] || !are_in_bounds(all, at->tensor, start, end - start);
        if (*doubtful) continue;
        for (here.start = start; here.start < end; here.start += most) {
            here.count = end - here.start < most ? end - here.start : most;
            all->function(all->rule, all->list, &here, scratch);
        }
    }
}

/* Step the tensors from `first` up to `end`, of so many tasks in all. */
static void step_group(const job *all, long first, long end, long tasks, double longest,
                       long threads) {
    const tensor_list *list = all->list;
    run_tasks(look, (void *)all, tasks, threads);
    for (long k = first; k < end; k++) {
        float steps = *place(list, STEP, k);
        double lr = fabs(list->rates[2 * k]), decay = fabs(list->rates[2 * k + 1]);
        double moved = SAFE * (1 + lr * decay) + lr * longest;
        /* Corrections need a count. Written so that a number that is none is not safe, either. */
        int is_safe = steps >= 0 && steps < SAFE && lr < 3e38 && lr * decay < 3e38 && moved < 3e38;
        all->untouched[k] = !is_safe;
    }
    for (long number = 0; number < tasks; number++)
        if (!all->task[number].is_safe) all->untouched[all->task[number].tensor] = 1;
    run_tasks(step, (void *)all, tasks, threads);
    for (long number = 0; number < tasks;) {
        long k = all->task[number].tensor, stepped = 0;
        for (; number < tasks && all->task[number].tensor == k; number++)
            for (long piece = 0; piece * all->length < all->task[number].count; piece++)
                stepped += !all->task[number].doubtful[piece];
        if (!stepped) all->untouched[k] = 1;
    }
    for (long k = first; k < end; k++)
        if (!all->untouched[k]) *place(list, STEP, k) += 1;
}

int step_coordinates(const tensor_list *list, block_function function, const void *rule,
                     size_t scratch_bytes, long states, const state_bounds *bounds, double longest,
                     const leftovers *left, long threads) {
    long tasks = 0, number = 0;
    for (long k = 0; k < list->n; k++) tasks += (list->sizes[k] + TASK - 1) / TASK;
    task *every = malloc((tasks + 1) * sizeof(task));
    if (!every) return -1;
    job all = {list,   function,     rule,            scratch_bytes, states,
               bounds, left->length, TASK * (threads < 1 ? 1 : threads), left->untouched, every};
    uint8_t *doubtful = left->doubtful;
    for (long first = 0, end; first < list->n; first = end) {
        long held = 0;
        for (end = first; end < list->n && (end == first || held + list->sizes[end] <= GROUP);
             end++) {
            long size = list->sizes[end];
            held += size;
            for (long start = 0; start < size; start += TASK)
                every[number++] = (task){end, start, size - start < TASK ? size - start : TASK,
                                         doubtful + start / left->length, 0};
            doubtful += (size + left->length - 1) / left->length;
        }
        long of_group = number - (all.task - every);
        step_group(&all, first, end, of_group, longest, threads);
        all.task += of_group;
    }
    free(every);
    return 0;
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

/* The steps of step-size-lstm that Python calls: of one model, and of a population of rules. */
#include <stdlib.h>
#include <string.h>

#include "parallel.h"
#include "step_size.h"

/* The parameter, the gradient, the step and the six state tensors. */
#define ROLES (SCALARS + 1)

/* Step n tensors, or none: then 1 is written to `untouched`, else 0.
 *
 * places: [9, n]: parameter, gradient, step, m9, m99, v, h, c, scalars.
 * rates: [n, 2]: learning rate and weight decay; is_vector: [n]: 1 for at most one dimension.
 * weights, settings, whole: in the order of the enums of step_size.h.
 * Returns 0, or -1 without memory, and then nothing has changed. */
int learned_opt_step_size_lstm(int64_t n, const int64_t *sizes, float *const *places,
                               const double *rates, double sign, const uint8_t *is_vector,
                               uint8_t *untouched, const float *const *weights,
                               const double *settings, const int64_t *whole, int64_t threads) {
    tensor_list list = {n, sizes, places, rates, sign};
    network net = {weights, settings, whole};
    step_space space;
    if (make_step_space(&space, n, sizes, whole[UNITS])) return -1;
    *untouched = !step_tensors(&net, &list, is_vector, &space, threads);
    free_step_space(&space);
    return 0;
}

/* Numbers of a run, in their order. */
enum { RUN_LOSS, RUN_PLANNED, RUN_LR, RUN_DECAY, RUN_NUMBERS };

typedef struct {
    long runs, n, tasks;
    const int64_t *sizes;
    float *const *places;
    const uint8_t *is_vector, *moving;
    const double *of_runs;
    uint8_t *untouched;
    const float *const *weights;
    const double *settings;
    const int64_t *whole;
    step_space *spaces; /* [tasks] */
    float **run_places; /* [tasks, ROLES, n] */
    double *run_rates;  /* [tasks, n, 2] */
} population;

/* How many numbers a run has in a stacked tensor. */
static long numbers_of_run(const population *all, long role, long tensor) {
    if (role == STEP) return 1;
    if (role == MEMORY_H || role == MEMORY_C) return all->whole[UNITS];
    return role == SCALARS ? SCALAR_COUNT : all->sizes[tensor];
}

static void step_run(const population *all, long task, long run) {
    long n = all->n, units = all->whole[UNITS];
    float **places = all->run_places + task * ROLES * n;
    double *rates = all->run_rates + task * 2 * n, settings[SETTINGS];
    const double *own = all->of_runs + RUN_NUMBERS * run;
    const long lengths[] = {(FEATURES + units) * 4 * units, 4 * units, CONTROLS * units, CONTROLS};
    const float *weights[WEIGHTS];
    for (long role = 0; role < ROLES; role++)
        for (long k = 0; k < n; k++)
            places[role * n + k] = all->places[role * n + k] + run * numbers_of_run(all, role, k);
    for (long k = 0; k < n; k++) {
        rates[2 * k] = own[RUN_LR];
        rates[2 * k + 1] = own[RUN_DECAY];
    }
    for (int k = 0; k < WEIGHTS; k++)
        weights[k] = all->weights[k] + (k < SHIFT ? run * lengths[k] : 0);
    memcpy(settings, all->settings, sizeof settings);
    settings[LOSS] = own[RUN_LOSS];
    settings[PLANNED] = own[RUN_PLANNED];
    tensor_list list = {n, all->sizes, places, rates, 1};
    network net = {weights, settings, all->whole};
    all->untouched[run] = !step_tensors(&net, &list, all->is_vector, &all->spaces[task], 1);
}

static void step_some_runs(void *shared, long task) {
    const population *all = shared;
    for (long run = task * all->runs / all->tasks; run < (task + 1) * all->runs / all->tasks; run++) {
        all->untouched[run] = 0;
        if (all->moving[run]) step_run(all, task, run);
    }
}

/* Step the tensors of many runs, each with weights of its own; or leave those of a run as they are:
 * then 1 is written to `untouched`, [runs], else 0.
 *
 * sizes: [n], of a run. places: as above, of tensors with a leading axis of runs.
 * moving: [runs]: 0 for a run that is to be left alone.
 * of_runs: [runs, 4]: loss, planned number of steps, learning rate, weight decay.
 * weights: as above; the four that are learned have a leading axis of runs.
 * settings: as above, but for the loss and the planned number of steps, which are not read.
 * Returns 0, or -1 without memory, and then nothing has changed. */
int learned_opt_step_size_population(int64_t runs, int64_t n, const int64_t *sizes,
                                     float *const *places, const uint8_t *is_vector,
                                     const uint8_t *moving, const double *of_runs,
                                     uint8_t *untouched, const float *const *weights,
                                     const double *settings, const int64_t *whole,
                                     int64_t threads) {
    long tasks = threads < runs ? threads : runs, made = 0;
    population all = {runs, n, tasks, sizes, places, is_vector, moving, of_runs, untouched, weights,
                      settings, whole, malloc(tasks * sizeof(step_space)),
                      malloc(tasks * ROLES * n * sizeof(float *)),
                      malloc(tasks * 2 * n * sizeof(double))};
    int failed = !all.spaces || !all.run_places || !all.run_rates;
    while (!failed && made < tasks) {
        failed = make_step_space(&all.spaces[made], n, sizes, whole[UNITS]);
        made += !failed;
    }
    if (!failed) run_tasks(step_some_runs, &all, tasks, threads);
    for (long task = 0; task < made; task++) free_step_space(&all.spaces[task]);
    free(all.spaces);
    free(all.run_places);
    free(all.run_rates);
    return failed ? -1 : 0;
}

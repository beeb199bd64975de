/* Batch normalisation and ReLU of many runs, and the first and second derivatives.
 *
 * Maps are [runs, rows, channels]; each run has its own statistics over its rows, scale and shift.
 * The equations are those of `meta_train/tasks/episodes/batch_norm.py`. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "lstm.h" /* LANES and VECTORS */
#include "parallel.h"

enum { COLUMNS = LANES * VECTORS };

/* Rows that are summed in single precision before they join the sum in double precision. */
enum { ROWS_OF_A_SUM = 64 };

typedef float columns[COLUMNS];
typedef double sums[COLUMNS];

typedef struct {
    long rows, channels;
    double eps;
    float *const *places;
} call;

static inline float *at(const call *c, int place, long run, long column) {
    return c->places[place] + run * c->rows * c->channels + column;
}

static inline float *of_channels(const call *c, int place, long run, long column) {
    return c->places[place] + run * c->channels + column;
}

static inline void add(double *total, float *part) {
    for (int k = 0; k < COLUMNS; k++) total[k] += part[k], part[k] = 0;
}

enum { MAPS, SCALE, SHIFT, SPREAD, Y };

static void forward(void *shared, long run) {
    const call *c = shared;
    for (long column = 0; column < c->channels; column += COLUMNS) {
        float *maps = at(c, MAPS, run, column), *y = at(c, Y, run, column);
        const float *scale = of_channels(c, SCALE, run, column);
        const float *shift = of_channels(c, SHIFT, run, column);
        float *spread = of_channels(c, SPREAD, run, column);
        sums sum = {0}, squares = {0};
        columns part = {0}, mean;
        for (long row = 0; row < c->rows; row++) {
            const float *a = maps + row * c->channels;
            for (int k = 0; k < COLUMNS; k++) part[k] += a[k];
            if (row % ROWS_OF_A_SUM == ROWS_OF_A_SUM - 1 || row == c->rows - 1) add(sum, part);
        }
        for (int k = 0; k < COLUMNS; k++) mean[k] = (float)(sum[k] / c->rows);
        for (long row = 0; row < c->rows; row++) {
            const float *a = maps + row * c->channels;
            for (int k = 0; k < COLUMNS; k++) part[k] += (a[k] - mean[k]) * (a[k] - mean[k]);
            if (row % ROWS_OF_A_SUM == ROWS_OF_A_SUM - 1 || row == c->rows - 1) add(squares, part);
        }
        for (int k = 0; k < COLUMNS; k++)
            spread[k] = (float)(1 / sqrt(squares[k] / c->rows + c->eps));
        for (long row = 0; row < c->rows; row++) {
            float *a = maps + row * c->channels, *out = y + row * c->channels;
            for (int k = 0; k < COLUMNS; k++) {
                float n = (a[k] - mean[k]) * spread[k], z = scale[k] * n + shift[k];
                a[k] = n;
                out[k] = z < 0 ? 0 : z; /* not a number stays so */
            }
        }
    }
}

enum { GRAD, OUT_Y, NORMAL, OUT_SPREAD, OUT_SCALE, BY_MAPS, BY_SCALE, BY_SHIFT };

static void gradient(void *shared, long run) {
    const call *c = shared;
    for (long column = 0; column < c->channels; column += COLUMNS) {
        const float *grad = at(c, GRAD, run, column), *y = at(c, OUT_Y, run, column);
        const float *normal = at(c, NORMAL, run, column);
        const float *scale = of_channels(c, OUT_SCALE, run, column);
        const float *spread = of_channels(c, OUT_SPREAD, run, column);
        float *by_maps = at(c, BY_MAPS, run, column);
        float *by_scale = of_channels(c, BY_SCALE, run, column);
        float *by_shift = of_channels(c, BY_SHIFT, run, column);
        sums sum = {0}, product = {0};
        columns part = {0}, along = {0}, factor, mean, slope;
        for (long row = 0; row < c->rows; row++) {
            long first = row * c->channels;
            for (int k = 0; k < COLUMNS; k++) {
                float g = y[first + k] <= 0 ? 0 : grad[first + k];
                part[k] += g;
                along[k] += g * normal[first + k];
            }
            if (row % ROWS_OF_A_SUM == ROWS_OF_A_SUM - 1 || row == c->rows - 1)
                add(sum, part), add(product, along);
        }
        for (int k = 0; k < COLUMNS; k++) {
            by_shift[k] = (float)sum[k], by_scale[k] = (float)product[k];
            factor[k] = scale[k] * spread[k];
            mean[k] = (float)(sum[k] / c->rows), slope[k] = (float)(product[k] / c->rows);
        }
        for (long row = 0; row < c->rows; row++) {
            long first = row * c->channels;
            for (int k = 0; k < COLUMNS; k++) {
                float g = y[first + k] <= 0 ? 0 : grad[first + k];
                by_maps[first + k] = factor[k] * (g - mean[k] - normal[first + k] * slope[k]);
            }
        }
    }
}

enum { T = BY_MAPS, TO_SCALE, TO_SHIFT, BY_GRAD, BY_A, SECOND_BY_SCALE };

static void second(void *shared, long run) {
    const call *c = shared;
    double rows = (double)c->rows;
    for (long column = 0; column < c->channels; column += COLUMNS) {
        const float *grad = at(c, GRAD, run, column), *y = at(c, OUT_Y, run, column);
        const float *normal = at(c, NORMAL, run, column), *t = at(c, T, run, column);
        const float *scale = of_channels(c, OUT_SCALE, run, column);
        const float *spread = of_channels(c, OUT_SPREAD, run, column);
        const float *to_scale = of_channels(c, TO_SCALE, run, column);
        const float *to_shift = of_channels(c, TO_SHIFT, run, column);
        float *by_grad = at(c, BY_GRAD, run, column), *by_a = at(c, BY_A, run, column);
        float *by_scale = of_channels(c, SECOND_BY_SCALE, run, column);
        sums total[5] = {{0}};
        columns part[5] = {{0}};
        for (long row = 0; row < c->rows; row++) {
            long first = row * c->channels;
            for (int k = 0; k < COLUMNS; k++) {
                float g = y[first + k] <= 0 ? 0 : grad[first + k];
                float n = normal[first + k], s = t[first + k];
                part[0][k] += g;
                part[1][k] += g * n;
                part[2][k] += s;
                part[3][k] += s * n;
                part[4][k] += s * g;
            }
            if (row % ROWS_OF_A_SUM == ROWS_OF_A_SUM - 1 || row == c->rows - 1)
                for (int j = 0; j < 5; j++) add(total[j], part[j]);
        }
        columns g_constant, g_t, g_n, a_constant, a_t, a_g, a_n;
        for (int k = 0; k < COLUMNS; k++) {
            double mean = total[0][k] / rows, along = total[1][k] / rows;
            double mean_t = total[2][k] / rows, along_t = total[3][k] / rows;
            double product = total[4][k] / rows - mean * mean_t - along * along_t;
            double s = spread[k], factor = scale[k] * s, rest = to_scale[k] - factor * along_t;
            g_constant[k] = (float)(to_shift[k] - factor * mean_t);
            g_t[k] = (float)factor;
            g_n[k] = (float)rest;
            a_constant[k] = (float)(s * (factor * along * mean_t - rest * mean));
            a_t[k] = (float)(-s * factor * along);
            a_g[k] = (float)(s * rest);
            a_n[k] = (float)(s * (factor * along * along_t - rest * along - factor * product));
            by_scale[k] = (float)(rows * s * product);
        }
        for (long row = 0; row < c->rows; row++) {
            long first = row * c->channels;
            for (int k = 0; k < COLUMNS; k++) {
                int off = y[first + k] <= 0;
                float g = off ? 0 : grad[first + k], n = normal[first + k], s = t[first + k];
                by_grad[first + k] = off ? 0 : g_t[k] * s + g_n[k] * n + g_constant[k];
                by_a[first + k] = a_t[k] * s + a_g[k] * g + a_n[k] * n + a_constant[k];
            }
        }
    }
}

/* Each function gets the sizes runs, rows and channels, and its places in the order above. Channels
 * are a multiple of 64. Returns 0. */
static int run(task_function function, const int64_t *sizes, float *const *places, double eps,
               int64_t threads) {
    call c = {.rows = sizes[1], .channels = sizes[2], .eps = eps, .places = places};
    run_tasks(function, &c, sizes[0], threads);
    return 0;
}

int learned_opt_batch_norm(const int64_t *sizes, float *const *places, double eps,
                           int64_t threads) {
    return run(forward, sizes, places, eps, threads);
}

int learned_opt_batch_norm_gradient(const int64_t *sizes, float *const *places, int64_t threads) {
    return run(gradient, sizes, places, 0, threads);
}

int learned_opt_batch_norm_second(const int64_t *sizes, float *const *places, int64_t threads) {
    return run(second, sizes, places, 0, threads);
}

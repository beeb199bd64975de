/* The network of step-size-lstm: from the sums over the tensors to the step of all of them, unless a
 * number would not be finite.
 *
 * Numbers of tensors are computed in double precision, the LSTM in single precision. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lstm_column.h"
#include "step_size.h"

#define LARGEST 3.4028234663852886e38 /* in float32 */

/* As in `Scalars`. */
enum { LOG_SCALE, INITIAL_RMS, MEAN_LOG, LOSSES_SEEN, LOSS_FAST, LOSS_SLOW, LOSS_FIRST, LOSS_BEST };

/* As in `Norms`, and where the sums have the squares. */
enum { OF_GRADIENT, M9_BEFORE, M99_BEFORE, ADAM_BEFORE, OF_PARAMETER, ADAM, SLOW_ADAM, OF_M9, SCALED };
#define NORMS 9
static const int SQUARES[NORMS] = {0, 4, 5, 6, 7, 13, 17, 20, 22};

/* Numbers of a tensor in a step. */
struct numbers {
    double norm[NORMS], rms[NORMS], cosine[3], size, step, schedule;
    double unbias[3], scaled[3]; /* of Adam's direction, the slow one and the gradient */
    float scalars[SCALAR_COUNT];
    int is_idle;
    double mix[DIRECTIONS], step_size, target;
};

/* Not a number stays so. */
static inline double clamp(double x, double low, double high) {
    return x < low ? low : x > high ? high : x;
}

static inline double at_least(double x, double low) { return x < low ? low : x; }

static inline double share_of_one(double beta, double step) { return -expm1(step * log(beta)); }

static double progress(const network *net, const numbers *own) {
    return clamp((own->step - 1) / net->setting[PLANNED], 0, 1);
}

static double schedule(const network *net, const numbers *own) {
    const double *s = net->setting;
    double warm_up = own->step / at_least(s[WARM_UP] * s[PLANNED], 1);
    double cosine = 0.5 * (1 + cos(M_PI * progress(net, own)));
    return (warm_up > 1 ? 1 : warm_up) * (s[LAST] + (1 - s[LAST]) * cosine);
}

static void measure(const network *net, const tensor_list *list, long tensor, const double *sums,
                    numbers *own) {
    const double *s = net->setting;
    own->size = list->sizes[tensor] > 1 ? (double)list->sizes[tensor] : 1;
    for (int k = 0; k < NORMS; k++) {
        own->norm[k] = sqrt(sums[SQUARES[k]]);
        own->rms[k] = own->norm[k] / sqrt(own->size) + s[TINY];
    }
    for (int k = 0; k < 3; k++)
        own->cosine[k] = sums[1 + k] / (own->norm[OF_GRADIENT] + s[TINY]) /
                         (own->norm[M9_BEFORE + k] + s[TINY]);
    memcpy(own->scalars, place(list, SCALARS, tensor), sizeof own->scalars);
    own->is_idle = own->norm[OF_GRADIENT] == 0 && own->norm[M9_BEFORE] == 0;
    own->step = *place(list, STEP, tensor) + 1.0;
    own->schedule = schedule(net, own);
    if (net->whole[PARAMETER_SCALE])
        own->schedule *= at_least(own->rms[OF_PARAMETER], 0.01) / 0.1;
    double slow = share_of_one(s[KEPT_SLOW], own->step), root = sqrt(slow);
    own->unbias[0] = root / share_of_one(s[KEPT_FAST], own->step);
    own->unbias[1] = root / slow;
    own->unbias[2] = root;
    own->scaled[0] = own->rms[ADAM] * own->unbias[0];
    own->scaled[1] = own->rms[SLOW_ADAM] * own->unbias[1];
    own->scaled[2] = own->rms[SCALED] * own->unbias[2];
}

static void follow_loss(const network *net, float *scalars) {
    float loss = (float)net->setting[LOSS];
    int is_first = scalars[LOSSES_SEEN] == 0;
    double fast = 1 - net->setting[KEPT_FAST], slow = 1 - net->setting[KEPT_SLOW];
    scalars[LOSSES_SEEN] += 1;
    if (is_first) {
        scalars[LOSS_FAST] = scalars[LOSS_SLOW] = scalars[LOSS_FIRST] = scalars[LOSS_BEST] = loss;
        return;
    }
    scalars[LOSS_FAST] += (float)(fast * ((double)loss - scalars[LOSS_FAST]));
    scalars[LOSS_SLOW] += (float)(slow * ((double)loss - scalars[LOSS_SLOW]));
    /* Not a number stays so. */
    float best = scalars[LOSS_BEST], now = scalars[LOSS_FAST];
    scalars[LOSS_BEST] = best != best || best < now ? best : now;
}

/* log(a / b), or 2 (a - b) / (|a| + |b|) where not both are positive. */
static double log_ratio(const network *net, double a, double b) {
    if (a > 0 && b > 0) return log(a) - log(b);
    return 2 * (a - b) / (fabs(a) + fabs(b) + net->setting[TINY]);
}

/* Write the features of a tensor, and renew its scalars. */
static void read_features(const network *net, numbers *own, int is_vector, double mean_cosine,
                          float *seen) {
    const double *s = net->setting;
    float *scalars = own->scalars;
    double log_gradient = log(own->rms[OF_GRADIENT]), surprise = 0;
    double log_rms = log(own->rms[OF_PARAMETER] + s[RMS_FLOOR]);
    if (own->norm[M9_BEFORE] == 0) {
        scalars[MEAN_LOG] = (float)log_gradient;
    } else {
        surprise = clamp(log_gradient - scalars[MEAN_LOG], -4, 4);
        scalars[MEAN_LOG] = (float)(scalars[MEAN_LOG] + (1 - s[KEPT_LOG]) * surprise);
    }
    double to_slow = 0, to_first = 0, to_best = 0;
    if (net->whole[HAS_LOSS]) {
        follow_loss(net, scalars);
        to_slow = log_ratio(net, scalars[LOSS_FAST], scalars[LOSS_SLOW]);
        to_first = log_ratio(net, scalars[LOSS_FAST], scalars[LOSS_FIRST]);
        to_best = log_ratio(net, scalars[LOSS_FAST], scalars[LOSS_BEST]);
    }
    const double features[FEATURES] = {
        surprise,
        own->cosine[0],
        own->cosine[1],
        own->cosine[2],
        log(own->scaled[0]),
        log(own->scaled[1]),
        log(s[DEFAULT_LR] * own->schedule) + scalars[LOG_SCALE] - log_rms,
        log_rms - log(scalars[INITIAL_RMS] + s[RMS_FLOOR]),
        progress(net, own),
        log(own->step),
        log(s[PLANNED]),
        mean_cosine,
        is_vector,
        log(own->size),
        net->whole[HAS_LOSS],
        to_slow,
        to_first,
        to_best,
    };
    const float *shift = net->weights[SHIFT], *scale = net->weights[SCALE];
    for (int k = 0; k < FEATURES; k++)
        seen[k] = (float)clamp((features[k] - shift[k]) * scale[k], -4, 4);
}

/* From the outputs of the head to the coefficients of a tensor. */
static void steer(const network *net, numbers *own, const double *y) {
    const double *s = net->setting;
    double drift = own->scalars[LOG_SCALE], divisor[3];
    double log_factor = clamp(drift + 2 * y[0], s[LEAST_LOG], s[MOST_LOG]);
    own->scalars[LOG_SCALE] = (float)clamp(drift + 0.1 * y[1], s[LEAST_LOG], s[MOST_LOG]);
    for (int k = 0; k < 3; k++) divisor[k] = at_least(own->scaled[k], s[DIRECTION_FLOOR]);
    own->mix[0] = at_least(0.5 * y[6], 0) / at_least(own->rms[OF_PARAMETER], s[RMS_FLOOR]);
    own->mix[1] = (1 + 0.5 * y[2]) * own->unbias[0] / divisor[0];
    own->mix[2] = 0.5 * y[3] * own->unbias[1] / divisor[1];
    own->mix[3] = 0.5 * y[4] / own->rms[OF_M9];
    own->mix[4] = 0.5 * y[5] * own->unbias[2] / divisor[2];
    own->step_size = own->schedule * exp(log_factor);
    own->target = own->scaled[0] / divisor[0];
}

/* Whether numbers are all finite. */
static int are_finite(const float *x, long count) { return largest_magnitude(x, count) < INFINITY; }

/* Step the network of a tensor; the room gets its new h and c. Returns whether all that is to be kept
 * is finite. */
static int step_network(const network *net, const tensor_list *list, long tensor, int is_vector,
                        double mean_cosine, step_space *space) {
    long units = net->whole[UNITS];
    numbers *own = &space->numbers[tensor];
    float *seen = space->seen, *h = space->memory + 2 * units * tensor, *c = h + units;
    read_features(net, own, is_vector, mean_cosine, seen);
    memcpy(seen + FEATURES, place(list, MEMORY_H, tensor), units * sizeof(float));
    memcpy(c, place(list, MEMORY_C, tensor), units * sizeof(float));
    step_lstm_column(FEATURES, units, net->weights[LSTM_WEIGHT], net->weights[LSTM_BIAS], seen, h, c,
                     seen + FEATURES + units);
    const float *weight = net->weights[HEAD_WEIGHT];
    double y[CONTROLS];
    for (int k = 0; k < CONTROLS; k++) {
        double sum = net->weights[HEAD_BIAS][k];
        for (long u = 0; u < units; u++) sum += (double)weight[k * units + u] * h[u];
        y[k] = sum;
    }
    steer(net, own, y);
    if (own->is_idle) {
        memcpy(h, place(list, MEMORY_H, tensor), units * sizeof(float));
        memcpy(c, place(list, MEMORY_C, tensor), units * sizeof(float));
        memcpy(own->scalars, place(list, SCALARS, tensor), sizeof own->scalars);
    }
    return are_finite(h, 2 * units) && are_finite(own->scalars, SCALAR_COUNT);
}

/* The weights of the parameter and the directions in the step of a tensor. Returns whether they and
 * the parameters after the step are sure to be finite. */
static int weigh(const network *net, const numbers *own, const double *sums, double lr,
                 double decay, float *weights, float *shrink) {
    /* |sum_i w_i d_i|^2 from the Gram matrix of the directions, as in `mix_rms`. */
    const double *gram = sums + 8;
    double square = 0;
    for (int i = 0; i < DIRECTIONS; i++)
        for (int j = i; j < DIRECTIONS; j++)
            square += (i == j ? 1 : 2) * (own->mix[i] * *gram++ * own->mix[j]);
    double rms = sqrt(at_least(square, 0) / own->size), tiny = net->setting[TINY];
    double factor = -own->step_size * own->target / at_least(rms, 0.01 * own->target + tiny);
    /* Of the parameter and the directions: lengths[i] is that of the i-th. */
    const double *lengths = own->norm + OF_PARAMETER;
    double bound = lengths[0] * (1 + fabs(lr * decay));
    int is_finite = fabs(lr) < LARGEST && fabs(lr * decay) < LARGEST;
    for (int i = 0; i < DIRECTIONS; i++) {
        double weight = lr * factor * own->mix[i];
        weights[i] = (float)weight;
        is_finite &= fabs(weight) < LARGEST;
        bound += fabs(weight) * lengths[i];
    }
    *shrink = (float)(lr * decay);
    return is_finite && bound < 0.9 * LARGEST;
}

/* Everything but the move and what is kept. Returns whether all of it will be finite. */
static int prepare(const network *net, const tensor_list *list, const uint8_t *is_vector,
                   step_space *space) {
    double cosines = 0;
    for (long k = 0; k < list->n * SUMS; k++)
        if (!(fabs(space->sums[k]) < LARGEST)) return 0;
    for (long k = 0; k < list->n; k++) {
        measure(net, list, k, space->sums + SUMS * k, &space->numbers[k]);
        cosines += space->numbers[k].cosine[0];
    }
    for (long k = 0; k < list->n; k++)
        if (!step_network(net, list, k, is_vector[k], cosines / list->n, space) ||
            !weigh(net, &space->numbers[k], space->sums + SUMS * k, list->rates[2 * k],
                   list->rates[2 * k + 1], space->mixed + DIRECTIONS * k, space->shrink + k))
            return 0;
    return 1;
}

static void keep(const network *net, const tensor_list *list, const step_space *space) {
    long units = net->whole[UNITS];
    for (long k = 0; k < list->n; k++) {
        const float *own = space->memory + 2 * units * k;
        *place(list, STEP, k) += 1;
        memcpy(place(list, MEMORY_H, k), own, units * sizeof(float));
        memcpy(place(list, MEMORY_C, k), own + units, units * sizeof(float));
        memcpy(place(list, SCALARS, k), space->numbers[k].scalars,
               sizeof space->numbers[k].scalars);
    }
}

int make_step_space(step_space *space, long n, const int64_t *sizes, long units) {
    if (make_pieces(&space->pieces, n, sizes, SUMS * sizeof(double))) return -1;
    space->sums = malloc(n * SUMS * sizeof(double));
    space->numbers = malloc(n * sizeof(numbers));
    space->memory = malloc((n * (2 * units + DIRECTIONS + 1) + FEATURES + 5 * units) * sizeof(float));
    if (!space->sums || !space->numbers || !space->memory) {
        free_step_space(space);
        return -1;
    }
    space->mixed = space->memory + 2 * units * n;
    space->shrink = space->mixed + DIRECTIONS * n;
    space->seen = space->shrink + n;
    return 0;
}

void free_step_space(step_space *space) {
    free_pieces(&space->pieces);
    free(space->sums);
    free(space->numbers);
    free(space->memory);
}

int step_tensors(const network *net, const tensor_list *list, const uint8_t *is_vector,
                 step_space *space, long threads) {
    sum_step_sizes(&space->pieces, list, space->sums, threads);
    if (!prepare(net, list, is_vector, space)) return 0;
    move_step_sizes(&space->pieces, list, space->mixed, space->shrink, threads);
    keep(net, list, space);
    return 1;
}

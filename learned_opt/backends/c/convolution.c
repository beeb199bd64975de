/* Two-dimensional convolution of many runs, each with its own weights, and its two gradients.
 *
 * Maps lie as [runs, images, height, width, channels], weights as torch has them, [runs, out, in,
 * kernel height, kernel width]. Each run is a task. Everything is a product of a few rows with a
 * matrix of weights or of gradients; rows that lie outside of the image are left out. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lstm.h" /* LANES and VECTORS */
#include "parallel.h"

/* Rows of a tile. With its columns its sums fill the registers: 24 of 32 in AVX-512, else 12. */
#define ROWS 6

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

typedef struct {
    lanes sum[ROWS][VECTORS];
} tile;

enum { COLUMNS = LANES * VECTORS };

/* Rows of the output whose gradients stay in the cache while all of a weight's sums pass them. */
enum { ROWS_IN_CACHE = 256 };

typedef struct {
    int64_t runs, images, height, width, in, out;
    int64_t kernel[2], step[2], padding[2]; /* each: down, across */
} sizes;

typedef struct {
    sizes of;
    long down, across, rows, taps;
    const float *x;
    float *x_out;
    const float *weight;
    float *weight_out;
    const float *maps;
    float *maps_out;
    long add; /* to what the output holds */
    int failed;
} call;

static void clear(tile *t) { memset(t, 0, sizeof *t); }

static inline lanes load(const float *from) { return *(const lanes *)from; }

/* sums += a[r][k] b[k] for ROWS rows and all k. */
static inline __attribute__((always_inline)) void multiply(tile *t, const float *const *a,
                                                           long count, const float *b,
                                                           long stride) {
    tile s = *t;
    for (long k = 0; k < count; k++, b += stride) {
        lanes row[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) row[v] = load(b + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            float factor = a[r][k];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) s.sum[r][v] += factor * row[v];
        }
    }
    *t = s;
}

/* Add the first `count` rows of a tile to rows of memory, or write them. */
static void put(const tile *t, float *const *to, long count, long add) {
    for (long r = 0; r < count; r++) {
        if (to[r] == NULL) continue;
        for (int v = 0; v < VECTORS; v++) {
            lanes *place = (lanes *)(to[r] + v * LANES);
            *place = add ? *place + t->sum[r][v] : t->sum[r][v];
        }
    }
}

/* Weights [out, in, taps] to [taps, in, out]. */
static void outputs_last(const call *c, const float *weight, float *to) {
    long in = c->of.in, out = c->of.out, taps = c->taps;
    for (long i = 0; i < in; i++)
        for (long tap = 0; tap < taps; tap++)
            for (long o = 0; o < out; o++)
                to[(tap * in + i) * out + o] = weight[(o * in + i) * taps + tap];
}

/* Weights [out, in, taps] to [taps, out, in]. */
static void inputs_last(const call *c, const float *weight, float *to) {
    long in = c->of.in, out = c->of.out, taps = c->taps;
    for (long o = 0; o < out; o++)
        for (long i = 0; i < in; i++)
            for (long tap = 0; tap < taps; tap++)
                to[(tap * out + o) * in + i] = weight[(o * in + i) * taps + tap];
}

/* The number of the pixel of each row under each tap, [taps, rows]; -1 outside of the image. */
static void find_pixels(const call *c, int32_t *pixels) {
    const sizes *of = &c->of;
    for (long tap = 0; tap < c->taps; tap++)
        for (long image = 0; image < of->images; image++)
            for (long p = 0; p < c->down; p++) {
                long i = p * of->step[0] - of->padding[0] + tap / of->kernel[1];
                long line = i < 0 || i >= of->height ? -1 : (image * of->height + i) * of->width;
                for (long q = 0; q < c->across; q++) {
                    long j = q * of->step[1] - of->padding[1] + tap % of->kernel[1];
                    *pixels++ = line < 0 || j < 0 || j >= of->width ? -1 : (int32_t)(line + j);
                }
            }
}

/* Of fewer channels than a tile has rows, patches are read as the channels of a kernel of one:
 * [rows, wide], the pixels under all taps side by side. Then every row's pixel is itself. */
static long patch_width(const call *c) {
    if (c->of.in >= ROWS) return 0;
    long wide = c->taps * c->of.in;
    return wide < ROWS ? ROWS : wide;
}

static void copy_patches(const call *c, const float *x, int32_t *pixels, long wide, float *patch) {
    long in = c->of.in;
    for (long tap = 0; tap < c->taps; tap++)
        for (long row = 0; row < c->rows; row++) {
            long at = pixels[tap * c->rows + row];
            float *to = patch + row * wide + tap * in;
            for (long i = 0; i < in; i++) to[i] = at < 0 ? 0.0f : x[at * in + i];
        }
    for (long row = 0; row < c->rows; row++) pixels[row] = (int32_t)row;
}

static void forward(void *shared, long run) {
    call *c = shared;
    const sizes *of = &c->of;
    long in = of->in, out = of->out, weights = c->taps * in * out, taps = c->taps;
    long wide = patch_width(c), channels = wide ? wide : in;
    size_t packed_size = (size_t)(wide ? wide * out : weights);
    float *packed = calloc(packed_size + (size_t)channels, sizeof(float));
    int32_t *pixels = malloc(sizeof(int32_t) * (size_t)(taps * c->rows));
    float *patch = wide ? calloc((size_t)(c->rows * wide), sizeof(float)) : NULL;
    if (packed == NULL || pixels == NULL || (wide && patch == NULL)) {
        c->failed = 1;
    } else {
        const float *x = c->x + run * of->images * of->height * of->width * in;
        const float *zeros = packed + packed_size;
        float *maps = c->maps_out + run * c->rows * out;
        outputs_last(c, c->weight + run * weights, packed);
        find_pixels(c, pixels);
        if (wide) {
            copy_patches(c, x, pixels, wide, patch);
            x = patch, in = wide, taps = 1;
        }
        for (long row = 0; row < c->rows; row += ROWS) {
            long count = c->rows - row < ROWS ? c->rows - row : ROWS;
            for (long column = 0; column < out; column += COLUMNS) {
                tile sums;
                clear(&sums);
                for (long tap = 0; tap < taps; tap++) {
                    const float *a[ROWS];
                    for (long r = 0; r < ROWS; r++) {
                        long at = r < count ? pixels[tap * c->rows + row + r] : -1;
                        a[r] = at < 0 ? zeros : x + at * in;
                    }
                    multiply(&sums, a, in, packed + tap * in * out + column, out);
                }
                float *to[ROWS];
                for (long r = 0; r < count; r++) to[r] = maps + (row + r) * out + column;
                put(&sums, to, count, c->add);
            }
        }
    }
    free(packed);
    free(pixels);
    free(patch);
}

static void input_gradient(void *shared, long run) {
    call *c = shared;
    const sizes *of = &c->of;
    long in = of->in, out = of->out, weights = c->taps * in * out;
    long numbers = of->images * of->height * of->width * in;
    float *packed = malloc(sizeof(float) * (size_t)weights);
    int32_t *pixels = malloc(sizeof(int32_t) * (size_t)(c->taps * c->rows));
    if (packed == NULL || pixels == NULL) {
        c->failed = 1;
    } else {
        float *x = c->x_out + run * numbers;
        const float *maps = c->maps + run * c->rows * out;
        if (!c->add) memset(x, 0, sizeof(float) * (size_t)numbers);
        inputs_last(c, c->weight + run * weights, packed);
        find_pixels(c, pixels);
        for (long row = 0; row < c->rows; row += ROWS) {
            long count = c->rows - row < ROWS ? c->rows - row : ROWS;
            const float *a[ROWS];
            for (long r = 0; r < ROWS; r++) a[r] = maps + (row + (r < count ? r : 0)) * out;
            for (long tap = 0; tap < c->taps; tap++) {
                for (long column = 0; column < in; column += COLUMNS) {
                    tile sums;
                    clear(&sums);
                    multiply(&sums, a, out, packed + tap * in * out + column, in);
                    float *to[ROWS];
                    for (long r = 0; r < count; r++) {
                        long at = pixels[tap * c->rows + row + r];
                        to[r] = at < 0 ? NULL : x + at * in + column;
                    }
                    put(&sums, to, count, 1);
                }
            }
        }
    }
    free(packed);
    free(pixels);
}

/* sums[r] += x[pixel][r] g[row] over rows. */
static inline __attribute__((always_inline)) void correlate(tile *t, const float *x,
                                                            const int32_t *pixels, long in,
                                                            const float *g, long out,
                                                            long rows) {
    tile s = *t;
    for (long row = 0; row < rows; row++) {
        if (pixels[row] < 0) continue;
        const float *a = x + pixels[row] * in;
        lanes b[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) b[v] = load(g + row * out + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; r++) {
            float factor = a[r];
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) s.sum[r][v] += factor * b[v];
        }
    }
    *t = s;
}

/* Sums [taps, in, out] of some rows of x with their gradients. */
static void weight_sums(const call *c, const float *x, const int32_t *pixels, const float *maps,
                        long first, long rows, float *sums) {
    long in = c->of.in, out = c->of.out;
    for (long tap = 0; tap < c->taps; tap++)
        for (long channel = 0; channel < in; channel += ROWS) {
            long count = in - channel < ROWS ? in - channel : ROWS;
            /* A tile always reads ROWS channels: the last begins earlier, if there are so many. */
            long begin = in < ROWS ? 0 : channel + count - ROWS;
            for (long column = 0; column < out; column += COLUMNS) {
                tile t;
                clear(&t);
                correlate(&t, x + begin, pixels + tap * c->rows + first, in,
                          maps + first * out + column, out, rows);
                float *to[ROWS];
                for (long r = 0; r < ROWS; r++) {
                    int own = begin + r >= channel && begin + r < channel + count;
                    to[r] = own ? sums + (tap * in + begin + r) * out + column : NULL;
                }
                put(&t, to, ROWS, 1);
            }
        }
}

static void weight_gradient(void *shared, long run) {
    call *c = shared;
    const sizes *of = &c->of;
    long in = of->in, out = of->out, weights = c->taps * in * out;
    long numbers = of->images * of->height * of->width * in;
    long wide = patch_width(c), channels = wide ? wide : c->taps * in;
    float *sums = calloc((size_t)(channels * out), sizeof(float));
    int32_t *pixels = malloc(sizeof(int32_t) * (size_t)(c->taps * c->rows));
    float *patch = wide ? calloc((size_t)(c->rows * wide), sizeof(float)) : NULL;
    if (sums == NULL || pixels == NULL || (wide && patch == NULL)) {
        c->failed = 1;
    } else {
        const float *x = c->x + run * numbers, *maps = c->maps + run * c->rows * out;
        call seen = *c;
        find_pixels(c, pixels);
        if (wide) {
            copy_patches(c, x, pixels, wide, patch);
            seen.taps = 1;
            seen.of.in = wide;
            x = patch;
        }
        for (long first = 0; first < c->rows; first += ROWS_IN_CACHE) {
            long left = c->rows - first;
            weight_sums(&seen, x, pixels, maps, first, left < ROWS_IN_CACHE ? left : ROWS_IN_CACHE,
                        sums);
        }
        float *to = c->weight_out + run * weights;
        for (long i = 0; i < in; i++)
            for (long tap = 0; tap < c->taps; tap++) {
                const float *row = sums + (tap * in + i) * out;
                for (long o = 0; o < out; o++) {
                    float *place = to + (o * in + i) * c->taps + tap;
                    *place = row[o] + (c->add ? *place : 0.0f);
                }
            }
    }
    free(sums);
    free(pixels);
    free(patch);
}

static call begin(const int64_t *given, long add) {
    call c = {.add = add};
    memcpy(&c.of, given, sizeof c.of);
    const sizes *of = &c.of;
    c.down = (of->height + 2 * of->padding[0] - of->kernel[0]) / of->step[0] + 1;
    c.across = (of->width + 2 * of->padding[1] - of->kernel[1]) / of->step[1] + 1;
    c.rows = of->images * c.down * c.across;
    c.taps = of->kernel[0] * of->kernel[1];
    return c;
}

/* Each function gets the sizes, 12 numbers, and three places: input, weight, output. The last or
 * the one that it computes is written, or added to. Returns 0, or -1 if there was no memory. */
int learned_opt_convolve(const int64_t *given, float *const *places, int64_t add,
                         int64_t threads) {
    call c = begin(given, add);
    c.x = places[0], c.weight = places[1], c.maps_out = places[2];
    run_tasks(forward, &c, c.of.runs, threads);
    return -c.failed;
}

int learned_opt_convolution_by_input(const int64_t *given, float *const *places, int64_t add,
                                     int64_t threads) {
    call c = begin(given, add);
    c.x_out = places[0], c.weight = places[1], c.maps = places[2];
    run_tasks(input_gradient, &c, c.of.runs, threads);
    return -c.failed;
}

int learned_opt_convolution_by_weight(const int64_t *given, float *const *places, int64_t add,
                                      int64_t threads) {
    call c = begin(given, add);
    c.x = places[0], c.weight_out = places[1], c.maps = places[2];
    run_tasks(weight_gradient, &c, c.of.runs, threads);
    return -c.failed;
}

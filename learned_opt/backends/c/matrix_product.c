/* Products of float32 matrices; of those that are known to be symmetric only half is computed.
 *
 * Blocks of both matrices are copied to where they lie in the order of the loops, filled up with
 * zeros, and small tiles of the result stay in registers (Goto & van de Geijn 2008). */
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "parallel.h"
#include "vectors.h"

/* A tile has ROWS rows and VECTORS vectors of columns. */
#if defined(__AVX512F__)
#define ROWS 14
#else
#define ROWS 6
#endif
#define VECTORS 2
#define COLUMNS (VECTORS * LANES)

/* Blocks: at most so much depth of both, rows of the first matrix and columns of the second. */
#define DEPTH 320L
#define MOST_ROWS (12L * ROWS)
#define MOST_COLUMNS 512L

/* A strip of the result is not narrower where threads share the columns of a matrix. */
#define LEAST_COLUMNS 128L

/* Rows and columns of a square that is turned over at once. */
#define SQUARE 32L

typedef float loose __attribute__((vector_size(4 * LANES), aligned(4)));

/* A matrix in a batch: where its elements lie, in elements of the batch, of rows, of columns. */
typedef struct {
    const float *start;
    long batch, row, column;
} matrix;

typedef struct {
    long rows, depth, columns, strips, width; /* strips of each matrix, and columns of a strip */
    matrix left, right;
    float *result;     /* [batch, rows, columns] */
    const float *base; /* laid out like the result */
    float base_scale, scale;
    int symmetric;
    atomic_int failed;
} job;

static long least(long x, long y) { return x < y ? x : y; }

static long up_to(long x, long multiple) { return (x + multiple - 1) / multiple * multiple; }

/* Copy [count, depth] to [depth, width], with zeros beyond count. */
static void pack(float *to, long width, const float *from, long count, long step, long depth,
                 long depth_step) {
    if (step == 1) {
        for (long k = 0; k < depth; k++, to += width, from += depth_step) {
            memcpy(to, from, count * sizeof(float));
            memset(to + count, 0, (width - count) * sizeof(float));
        }
        return;
    }
    for (long r = 0; r < width; r++)
        for (long k = 0; k < depth; k++)
            to[k * width + r] = r < count ? from[r * step + k * depth_step] : 0;
}

/* result = base_scale * base + scale * product of packed [depth, ROWS] and [depth, COLUMNS]; no
 * base if its scale is 0. It may be the result. */
static void tile(long depth, const float *restrict left, const float *restrict right,
                 float *result, const float *base, long width, float base_scale, float scale) {
    vector total[ROWS][VECTORS];
    EACH(r, ROWS) EACH(v, VECTORS) total[r][v] = (vector){0};
    for (long k = 0; k < depth; k++, left += ROWS, right += COLUMNS) {
        vector x[VECTORS];
        EACH(v, VECTORS) x[v] = ((const vector *)right)[v];
        EACH(r, ROWS) EACH(v, VECTORS) total[r][v] += left[r] * x[v];
    }
    EACH(r, ROWS) EACH(v, VECTORS) {
        long at = r * width + v * LANES;
        vector sum = scale * total[r][v];
        if (base_scale != 0) sum += base_scale * *(const loose *)(base + at);
        *(loose *)(result + at) = sum;
    }
}

static void tile_at_edge(long depth, const float *left, const float *right, float *result,
                         const float *base, long width, float base_scale, float scale, long rows,
                         long columns) {
    float whole[ROWS * COLUMNS] __attribute__((aligned(64)));
    tile(depth, left, right, whole, left, COLUMNS, 0, scale);
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < columns; c++) {
            long at = r * width + c;
            float sum = whole[r * COLUMNS + c];
            result[at] = base_scale != 0 ? sum + base_scale * base[at] : sum;
        }
}

/* The tiles of one block of rows and one of columns of a matrix, each packed. The first part of
 * the depth starts from the base, the others add. */
static void block(const job *own, long number, long first_row, long rows, long first_column,
                  long columns, long depth, const float *left, const float *right, int is_first) {
    long offset = number * own->rows * own->columns, width = own->columns;
    float *result = own->result + offset;
    const float *base = is_first ? own->base + offset : result;
    float base_scale = is_first ? own->base_scale : 1;
    for (long c = 0; c < columns; c += COLUMNS)
        for (long r = 0; r < rows; r += ROWS) {
            /* Below the diagonal: `mirror_task` fills it. */
            if (own->symmetric && first_column + c + COLUMNS <= first_row + r) continue;
            const float *a = left + r * depth, *b = right + c * depth;
            long at = (first_row + r) * width + first_column + c;
            if (rows - r >= ROWS && columns - c >= COLUMNS)
                tile(depth, a, b, result + at, base + at, width, base_scale, own->scale);
            else
                tile_at_edge(depth, a, b, result + at, base + at, width, base_scale, own->scale,
                             least(rows - r, ROWS), least(columns - c, COLUMNS));
        }
}

static void strip_task(void *shared, long task) {
    job *own = shared;
    long number = task / own->strips, begin = task % own->strips * own->width;
    long columns = least(own->width, own->columns - begin);
    long cuts = (own->depth + DEPTH - 1) / DEPTH, depth = (own->depth + cuts - 1) / cuts;
    if (columns <= 0) return;
    long most_rows = least(up_to(own->rows, ROWS), MOST_ROWS);
    long floats = (most_rows + up_to(columns, COLUMNS)) * depth;
    void *space = malloc(floats * sizeof(float) + 64);
    if (!space) {
        own->failed = 1;
        return;
    }
    /* The second matrix first: its vectors must lie on their own size. */
    float *right = (float *)(((uintptr_t)space + 63) / 64 * 64);
    float *left = right + up_to(columns, COLUMNS) * depth;
    const matrix *a = &own->left, *b = &own->right;
    long last_row = own->symmetric ? least(own->rows, begin + columns) : own->rows;
    for (long k = 0; k < own->depth; k += depth) {
        long deep = least(depth, own->depth - k);
        for (long c = 0; c < columns; c += COLUMNS)
            pack(right + c * deep, COLUMNS,
                 b->start + number * b->batch + k * b->row + (begin + c) * b->column,
                 least(COLUMNS, columns - c), b->column, deep, b->row);
        for (long row = 0; row < last_row; row += MOST_ROWS) {
            long rows = least(MOST_ROWS, last_row - row);
            for (long r = 0; r < rows; r += ROWS)
                pack(left + r * deep, ROWS,
                     a->start + number * a->batch + (row + r) * a->row + k * a->column,
                     least(ROWS, rows - r), a->row, deep, a->column);
            block(own, number, row, rows, begin, columns, deep, left, right, k == 0);
        }
    }
    free(space);
}

/* Copy what is right of the diagonal to below it, for SQUARE columns of one matrix. */
static void mirror_task(void *shared, long task) {
    const job *own = shared;
    long n = own->columns, blocks = (n + SQUARE - 1) / SQUARE;
    float *x = own->result + task / blocks * n * n;
    long begin = task % blocks * SQUARE, end = least(begin + SQUARE, n);
    for (long row = begin; row < n; row += SQUARE)
        for (long i = row; i < least(row + SQUARE, n); i++)
            for (long j = begin; j < least(end, i); j++) x[i * n + j] = x[j * n + i];
}

/* result = base_scale * base + scale * left right, for `batch` pairs [rows, depth], [depth, columns].
 *
 * strides: of the batch, the rows and the columns of the left, and of the right, in elements.
 * matrices: left, right, result and base; the latter two [batch, rows, columns], and one memory if
 * there is no base and its scale is 0. The result shares no other memory.
 * symmetric: not 0 if products and bases are known to be; then rows and columns are equal.
 * Returns 0, or -1 if there is no memory. */
int learned_opt_matrix_product(int64_t batch, int64_t rows, int64_t depth, int64_t columns,
                               const int64_t *strides, float *const *matrices, double base_scale,
                               double scale, int64_t symmetric, int64_t threads) {
    job own = {.rows = rows, .depth = depth, .columns = columns, .width = MOST_COLUMNS,
               .left = {matrices[0], strides[0], strides[1], strides[2]},
               .right = {matrices[1], strides[3], strides[4], strides[5]},
               .result = matrices[2], .base = matrices[3], .base_scale = (float)base_scale,
               .scale = (float)scale, .symmetric = symmetric != 0};
    if (batch * rows * depth * columns == 0) {
        for (long k = 0; k < batch * rows * columns; k++)
            own.result[k] = own.base_scale != 0 ? own.base_scale * own.base[k] : 0;
        return 0;
    }
    if (batch < threads && threads > 1) {
        long shares = up_to(2 * threads, batch) / batch;
        long width = up_to((columns + shares - 1) / shares, COLUMNS);
        own.width = least(MOST_COLUMNS, width > LEAST_COLUMNS ? width : LEAST_COLUMNS);
    }
    own.strips = (columns + own.width - 1) / own.width;
    run_tasks(strip_task, &own, batch * own.strips, threads);
    if (own.failed) return -1;
    if (own.symmetric)
        run_tasks(mirror_task, &own, batch * ((columns + SQUARE - 1) / SQUARE), threads);
    return 0;
}

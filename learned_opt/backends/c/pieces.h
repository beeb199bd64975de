/* Cuts a list of tensors into pieces, the tasks of `run_tasks`. */
#ifndef LEARNED_OPT_PIECES_H
#define LEARNED_OPT_PIECES_H

#include <stddef.h>
#include <stdint.h>

/* Most elements of a piece. Results do not depend on the number of threads: each piece has its own
 * place for them, and they are put together in order. */
#define PIECE (1L << 16)

typedef struct {
    long tensor, start, count;
} piece;

typedef struct {
    long count;
    piece *piece;
    void *results; /* `bytes` for each piece, all zero */
} pieces;

/* Cut n tensors of these sizes; empty tensors give no piece. Returns 0, or -1 without memory. */
int make_pieces(pieces *made, long n, const int64_t *sizes, size_t bytes);

void free_pieces(pieces *made);

#endif

#include "pieces.h"

#include <stdlib.h>

int make_pieces(pieces *made, long n, const int64_t *sizes, size_t bytes) {
    long count = 0;
    for (long k = 0; k < n; k++) count += (sizes[k] + PIECE - 1) / PIECE;
    made->count = 0;
    made->piece = malloc((count + 1) * sizeof(piece));
    made->results = calloc(count + 1, bytes + 1);
    if (!made->piece || !made->results) {
        free_pieces(made);
        return -1;
    }
    for (long k = 0; k < n; k++)
        for (long start = 0; start < sizes[k]; start += PIECE) {
            long left = sizes[k] - start;
            made->piece[made->count++] = (piece){k, start, left < PIECE ? left : PIECE};
        }
    return 0;
}

void free_pieces(pieces *made) {
    free(made->piece);
    free(made->results);
}

/* A long short-term memory cell for one row of inputs: vectors run over its units. */
#ifndef LEARNED_OPT_LSTM_COLUMN_H
#define LEARNED_OPT_LSTM_COLUMN_H

/* Step the cell.
 *
 * weight, bias: [inputs + units, 4 units] and [4 units], columns in the order i, f, o, z, as the
 * Python class has them.
 * seen: [inputs + units], the inputs and the last h.
 * h, c: [units]: where the new h goes, and the last c, which becomes the new one.
 * sums: room for [4 units]. */
void step_lstm_column(long inputs, long units, const float *weight, const float *bias,
                      const float *seen, float *h, float *c, float *sums);

#endif

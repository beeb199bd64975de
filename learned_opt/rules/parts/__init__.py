"""Parts that rules are built from: features, LSTM cells, directions. No part knows a rule."""

"""Reports of a benchmark: scores from the records of runs, then tables, notes and a picture."""

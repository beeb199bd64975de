"""The job that runs the benchmark of optimizers: settings, command line, run."""

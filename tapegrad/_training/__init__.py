"""The training kit's files, runs, loops, logs and metrics."""

"""The compiler: calls are captured as programs, planned, then replayed. It names no array library."""

"""Plan: passes that rewrite a program into fewer operations, grouped for an executor."""

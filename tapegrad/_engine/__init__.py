"""The engine: Tensors, records, rules and the walk."""

"""The tape as tables and drawings."""

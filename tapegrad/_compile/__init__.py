"""Capturing calls as programs, planning these and replaying them; this names no array library."""

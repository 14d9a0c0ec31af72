"""Run: a program bound to the state that it reads and updates, which replays calls."""

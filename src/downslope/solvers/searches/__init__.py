"""How far to go along a direction: a small state machine that takes one trial a turn."""

"""What every part may use: errors that a user can fix, ranks, seeds. Imports nothing of oboro."""

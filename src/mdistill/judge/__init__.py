"""Each rung judged against the rung above it."""

"""Students for other machines: what they compute as integers, and files that hold it."""

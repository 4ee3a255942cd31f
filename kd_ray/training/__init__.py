"""How one model learns: rows, losses, the loop, checkpoints, teacher and student."""

"""What a run comes to: figures over seeds, and a page to look at."""

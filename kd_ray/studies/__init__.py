"""Many runs that answer one question: the paper, the exercises, the views."""

"""Many requests over one Context: scheduler, runner, and the one loop that serves all of them."""

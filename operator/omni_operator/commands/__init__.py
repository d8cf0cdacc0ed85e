"""Commands that look at a running pipeline, or at what could run, through its API like any other client."""

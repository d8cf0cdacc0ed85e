"""One replica's engine: add request → schedule → execute → update from output, until none is left."""

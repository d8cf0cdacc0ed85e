"""Between a request and a pipeline's `__call__`: its arguments, images, embeddings, and what its output becomes."""

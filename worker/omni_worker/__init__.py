"""The data plane: the serving stack that runs in every head and replica process."""

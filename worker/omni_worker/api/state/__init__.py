"""What a head shows of itself: models, replicas, running requests, and the topology that commands and operator read."""

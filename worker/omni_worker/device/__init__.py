"""What depends on the device that tensors live on: copies between GPU and host, and out-of-memory errors."""

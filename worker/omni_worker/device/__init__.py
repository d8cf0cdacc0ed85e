"""What depends on the device that tensors live on: dtypes, copies between GPU and host, out-of-memory errors."""

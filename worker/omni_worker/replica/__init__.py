"""One replica from both ends: `server` and `process` on its side, `client` on the head's, `supervisor` above it."""

"""Which of several operators acts: holds the Lease, and sees which namespaces another operator is responsible for."""

"""What developers of this project run: the local cluster, Helm, the demo."""

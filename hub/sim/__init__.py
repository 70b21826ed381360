"""A simulated Kubernetes API server: for the demo, tests with many clusters, people without one at hand."""

"""What Kubernetes says of its own kinds: the OpenAPI and the discovery of a real API server, kept as data."""

"""The Kubernetes API server: credentials (`kubeclient`), requests (`cluster`, `kinds`, `discovery`, `api_status`),
watches (`watch`), and the Lease that lets one agent act at a time (`lease`)."""

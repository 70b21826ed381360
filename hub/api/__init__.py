"""What people and tools see over HTTP: `api` answers, `status` and `metrics` say it."""

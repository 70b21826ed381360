"""`managedFields`: who owns which fields (`ownership`), and how to change that (`steal`). All of it is pure."""

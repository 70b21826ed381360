"""The agents' streams: who may connect (`admission`, `keys`), what they say (`sessions`), the latest of it (`live`)."""

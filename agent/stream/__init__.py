"""Between this agent and its hub: `hub_client` and `identity` (the stream), `receive` and `slice_reader` (slices in),
`report` and `spool` (reports out)."""

"""Between this agent and its hub: `hub_client` and `identity` (the stream), `intake`, `receive`, `git_host`,
`slice_store` and `slice_reader` (slices in), `report` and `spool` (reports out)."""

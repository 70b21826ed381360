"""Slices as Git: composed (`compose`), stored (`gitstore`, `packs`), served to agents (`git_http`, `git_protocol`)."""

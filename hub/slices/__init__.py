"""Slices as Git: composed (`compose`), stored (`gitstore`, `packs`), told agents of (`carrier`), served to them
(`git_http`, `git_protocol`)."""

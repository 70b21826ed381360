"""Slices as Git: composed (`compose`), stored (`gitstore`), carried to agents by wake-ups (`carrier`), served to them
(`git_http`, `git_protocol`)."""

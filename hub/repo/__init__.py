"""The fleet repo: brought here, read strictly, and what has to be rendered of it.

`sync` (mirror) → `sources` (files of a commit or a folder; `listing`, `unpack`) → `salvage`, `yaml_reader`,
`yaml_scalars` (text to values) → `schema`, `kinds`, `fleet` (values to a Fleet, and what is wrong) → `targets` (what to
render).
"""

"""From a bundle's folder and one set of inputs to the files of a subtree.

`build` is the way in; it has `gather` ask `plain`, `kustomize` or `helm` for the manifests, with overlays and patches,
lets `variables` fill them in, and has `objects` make them canonical. All of it is a function of its arguments: no
network, no clock, no cluster. It blocks, so it runs in a worker process (`hub.worker`).
"""

"""`flotilla demo`: a whole fleet on one machine, hub, agents and simulated clusters, each a process of its own.

    command   the options
    run       setting up, the way to show it, cleaning up, the exit code
    live      the screen with its keys; plain lines where there is no terminal
    story     the seven steps: `commits` travel, stop and go back; `hands` edit, and agents do without the hub
    seen      what a step looks at, and what it demands of it
    view      what is shown, from the hub's API (pure); `screen` draws it (pure)
    world     the processes, and the clusters as somebody with kubectl has them; `fleet` is the fleet repo
    kubectl   real clusters instead of simulated ones, and what has to be said before and after

Nothing here reaches into the hub or an agent: they are started as a user starts them, and looked at through their APIs.
"""

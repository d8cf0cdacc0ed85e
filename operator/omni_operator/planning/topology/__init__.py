"""From a pipeline to the processes that serve it: their command lines, ports, addresses and devices.

Both backends start here, so a pipeline is wired the same way in a cluster and on a laptop: `cluster` uses fixed ports
and Service names, `local` 127.0.0.1 and free ports from its caller. Pure: nothing is started, opened or looked up.
"""

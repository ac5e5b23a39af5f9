"""A Ray cluster on loopback in a process of its own, which obeys lines on stdin: `kill NODE`, `add`, end of input.

Run by `ray_servers.py`. `ray start` takes the machine's own address; `ray.cluster_utils` can be told to stay on loopback,
and can kill a node with everything that runs on it.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

OBJECT_STORE = 100 * 2**20


def main(workers: int, dashboard_port: int) -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": dashboard_port,
            "node_ip_address": "127.0.0.1",
            "object_store_memory": OBJECT_STORE,
        },
    )
    nodes = [_add(cluster) for _ in range(workers)]
    print("ready", flush=True)
    for line in sys.stdin:
        verb, *rest = line.split()
        if verb == "kill":
            lost = next(node for node in nodes if node.node_id == rest[0])
            cluster.remove_node(lost, allow_graceful=False)
            nodes.remove(lost)
        elif verb == "add":
            nodes.append(_add(cluster))
        print("done", flush=True)
    cluster.shutdown()


def _add(cluster: Cluster) -> object:
    return cluster.add_node(num_cpus=1, node_ip_address="127.0.0.1", object_store_memory=OBJECT_STORE)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

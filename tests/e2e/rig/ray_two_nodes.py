"""A real cluster of Ray on the loopback: two nodes of one CPU. Prints its address, and ends with its stdin."""

import os
import sys

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

if __name__ == "__main__":
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    print(cluster.address, flush=True)  # noqa: T201
    sys.stdin.read()
    cluster.shutdown()

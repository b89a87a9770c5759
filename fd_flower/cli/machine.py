"""What this machine has, and how many of Flower's simulation workers fit on it."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

WORKER_BYTES = 4 * 2**30  # of GPU memory: a CUDA context, a resident model with its gradients, data and batches
CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees: its name and memory in bytes."""

    name: str
    memory: int


def cores() -> int:
    """Return the number of CPU cores that this process may use: its affinity, less where a container has a quota."""
    count = len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count() or 1
    if CGROUP_QUOTA.is_file():
        quota, period = CGROUP_QUOTA.read_text().split()
        if quota != "max":
            count = min(count, math.ceil(int(quota) / int(period)))
    return max(1, count)


def memory() -> int | None:
    """Return the machine's memory in bytes; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def gpu_count() -> int:
    """Return how many GPUs torch sees; none of them is touched."""
    import torch

    return torch.cuda.device_count()


def gpus() -> list[Gpu]:
    """Return the GPUs that torch sees."""
    import torch

    if not torch.cuda.is_available():
        return []
    found = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return [Gpu(gpu.name, gpu.total_memory) for gpu in found]


def federation_config(clients: int, cores: int, gpus: list[Gpu], nodes: int = 1, workers: int | None = None) -> str:
    """Return what ``flwr run --federation-config`` needs to host ``clients`` on this machine.

    One worker to a core, as many as there are clients. On GPUs several workers share one, each with a share of it
    that leaves room for `WORKER_BYTES`. A node is a worker, or more of them where the run waits for more (`nodes`).
    With a number of ``workers`` that is asked for, there are so many, whatever a GPU has room for.
    """
    asked, workers = workers, min(workers or cores, clients)
    words = []
    if gpus:
        per_gpu = math.ceil(workers / len(gpus))
        if asked is None:
            per_gpu = min(per_gpu, max(1, min(gpu.memory for gpu in gpus) // WORKER_BYTES))
            workers = min(workers, per_gpu * len(gpus))
        # Rounded down: shares that add up to more than one GPU would leave the last worker without a place.
        words = [f"client-resources-num-gpus={math.floor(1000 / per_gpu) / 1000:g}"]
    words = [f"num-supernodes={max(workers, nodes)}", "client-resources-num-cpus=1", *words]
    # Flower starts as many workers as Ray counts cores, wanted or not.
    return " ".join([*words, f"init-args-num-cpus={workers}"] if workers < cores else words)


def cluster_config(nodes: int) -> str:
    """Return what ``flwr run --federation-config`` needs on a running Ray cluster, which knows its cores itself."""
    return f"num-supernodes={nodes} client-resources-num-cpus=1"

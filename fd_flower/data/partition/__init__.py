"""Who holds which rows: the partitioners of flwr-datasets, and rules that it lacks."""

from fd_flower.data.partition.deal import partition

__all__ = ["partition"]

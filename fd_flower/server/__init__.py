"""The server's half: the strategy that methods fill in, and what runs it."""

from fd_flower.server.averaging import Averaging, with_adapters
from fd_flower.server.caching import Caching, CachingConfig
from fd_flower.server.clustering import Clustering
from fd_flower.server.ensembling import EnsembleConfig, Ensembling
from fd_flower.server.host_grid import HostGrid
from fd_flower.server.mixing import Mixing, MixingConfig
from fd_flower.server.participation import replied
from fd_flower.server.receiving import Receiving, ReceivingConfig
from fd_flower.server.requirements import Requirements
from fd_flower.server.run import Run
from fd_flower.server.staleness import late_weights
from fd_flower.server.status import Status
from fd_flower.server.strategy import Strategy
from fd_flower.server.voting import Voting
from fd_flower.wire.replies import Reply, mean_weights

__all__ = [
    "Averaging",
    "Caching",
    "CachingConfig",
    "Clustering",
    "EnsembleConfig",
    "Ensembling",
    "HostGrid",
    "Mixing",
    "MixingConfig",
    "Receiving",
    "ReceivingConfig",
    "Reply",
    "Requirements",
    "Run",
    "Status",
    "Strategy",
    "Voting",
    "late_weights",
    "mean_weights",
    "replied",
    "with_adapters",
]

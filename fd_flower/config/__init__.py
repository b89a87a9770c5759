"""A run's options, section by section, and how they are merged."""

from fd_flower.config.adapters import AveragingClientConfig, AveragingConfig, averaging
from fd_flower.config.attack import AttackConfig
from fd_flower.config.by_kind import usual
from fd_flower.config.client import ClientConfig
from fd_flower.config.clustering import ClusteringConfig, clustered_by_importances, clusters_of
from fd_flower.config.data import DataConfig
from fd_flower.config.labeled import LabeledConfig
from fd_flower.config.language import PublicTeacherConfig, PublicTextsConfig
from fd_flower.config.merge import CHANGEABLE, Settings, read_resumed, settings
from fd_flower.config.model import ModelConfig
from fd_flower.config.moments import MomentsConfig, averages_moments
from fd_flower.config.privacy import PrivacyConfig
from fd_flower.config.registry import read_recipe
from fd_flower.config.run import RunConfig
from fd_flower.config.sections import SECTIONS
from fd_flower.config.server import ANNEALED, EVALUATION_POINTS, ServerConfig
from fd_flower.config.wire import KEEPING, REFERRING, SPARSE, WireConfig
from fd_flower.core.schema import one_of, option

__all__ = [
    "ANNEALED",
    "CHANGEABLE",
    "EVALUATION_POINTS",
    "KEEPING",
    "REFERRING",
    "SECTIONS",
    "SPARSE",
    "AttackConfig",
    "AveragingClientConfig",
    "AveragingConfig",
    "ClientConfig",
    "ClusteringConfig",
    "DataConfig",
    "LabeledConfig",
    "ModelConfig",
    "MomentsConfig",
    "PrivacyConfig",
    "PublicTeacherConfig",
    "PublicTextsConfig",
    "RunConfig",
    "ServerConfig",
    "Settings",
    "WireConfig",
    "averages_moments",
    "averaging",
    "clustered_by_importances",
    "clusters_of",
    "one_of",
    "option",
    "read_recipe",
    "read_resumed",
    "settings",
    "usual",
]

"""Methods by name: the built-in ones, and those that lie in other packages."""

from fd_flower.config.registry import (
    client_app,
    client_app_name,
    config,
    config_class,
    full_name,
    installed,
    name_of,
    names,
    read_recipe,
    short_name,
    strategy,
)

__all__ = [
    "client_app",
    "client_app_name",
    "config",
    "config_class",
    "full_name",
    "installed",
    "name_of",
    "names",
    "read_recipe",
    "short_name",
    "strategy",
]

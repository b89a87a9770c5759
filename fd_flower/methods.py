"""Methods by name."""

from fd_flower.config.registry import check, client_app, config, config_class, names, read_recipe, strategy

__all__ = ["check", "client_app", "config", "config_class", "names", "read_recipe", "strategy"]

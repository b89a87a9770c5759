"""The ClientApp: a client distills the ensemble's predictions, trains on its own images, and predicts public images."""

from fd_flower.client_apps.fedmd import app as fedmd

app = fedmd  # Flower looks for an assignment

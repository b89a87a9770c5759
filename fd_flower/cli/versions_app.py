"""A ServerApp that asks every node which versions it runs, and no more: ``fd-flower status --versions``."""

import json
import secrets
from logging import INFO

from flwr.app import ConfigRecord, Context, Message
from flwr.serverapp import Grid, ServerApp

from fd_flower.config import settings
from fd_flower.core.flower import log
from fd_flower.core.versions import sources, versions
from fd_flower.wire.envelope import HANDSHAKE, HEADER, fold, one_line, records

PATIENCE = 120.0  # seconds for devices to answer: each starts a process that imports PyTorch
MARK = "versions: "
"""What a line of the log that holds the answers has before them."""
ASKED = ("fd-flower", "flwr", "torch", "python", "refused")
"""What is taken of an answer to the handshake."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Log a line of JSON: node id -> its versions, whether its sources are those here, what keeps it from a run."""
    sent = settings("local", "data.public=none privacy.sum=masks").text  # no device refuses a run that hides its sums
    content = fold({}, {"settings": sent, "state": "", "run-key": secrets.token_hex(8)})
    asked = [Message(content, node, HANDSHAKE) for node in grid.get_node_ids()]
    here = {"": {**versions(), "same": True}}
    answers = {
        str(reply.metadata.src_node_id): _answer(reply) for reply in grid.send_and_receive(asked, timeout=PATIENCE)
    }
    log(INFO, "%s%s", MARK, json.dumps(here | answers))


def _answer(reply: Message) -> dict[str, str | bool]:
    """Return what is shown of a node's answer, which may be anything."""
    if reply.has_error():
        return {"refused": one_line(reply.error.reason or f"error {reply.error.code}")}
    answer = records(reply.content, ConfigRecord).get(HEADER, ConfigRecord())
    shown: dict[str, str | bool] = {key: one_line(answer[key]) for key in ASKED if key in answer}
    return {**shown, "same": answer.get("sources") == sources()}

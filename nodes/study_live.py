"""What a study shows while it runs: how far it is, and the table as it fills."""

import time
from typing import Any

from comfy_execution.utils import get_executing_context

from ..medtraverse.evaluation import Evaluation
from ..medtraverse.study import Study
from ..medtraverse.study.pooled import duration
from ..medtraverse.trajectory import SWAP
from .live import Pace, running_server, say
from .views import cfrt_view, forget

# Seconds from one table to the next: it is drawn anew each time.
PACE = 5.0


class LiveTable:
    """The line of text and the CFRT panel on the running node."""

    def __init__(self, wanted: int, missing: int) -> None:
        self.wanted, self.done, self.new = wanted, wanted - missing, 0
        self.began = time.monotonic()
        self.summary = ""
        self.sent: dict[str, Any] = {}
        self.pace = Pace(PACE)
        self.pace.due()  # the first table after some patients, not after the first

    def made(self) -> None:
        """One patient more."""
        self.done, self.new = self.done + 1, self.new + 1

    def tell(self, text: str) -> None:
        """Show what is at work, below how far the study is."""
        say("\n".join(filter(None, (self.line(), self.summary, text))))

    def line(self) -> str:
        """How far the study is, and how long the rest will take."""
        text = f"{self.done} of {self.wanted} patients"
        if self.new:
            each = (time.monotonic() - self.began) / self.new
            text += f" · {each:.1f} s a patient · {duration(each * (self.wanted - self.done))} left"
        return text

    def due(self) -> bool:
        """Whether it is time for another table."""
        return self.pace.due()

    def show(self, study: Study, threshold: float) -> None:
        """Fill the panel and the line with what is known by now."""
        self.summary = summary(study.evaluation(SWAP, threshold=threshold))
        server, context = running_server(), get_executing_context()
        if server is None or context is None or server.client_id is None:
            return
        before, self.sent = self.sent, table_view(study, threshold)
        server.send_sync(
            "executed",
            {
                "node": context.node_id,
                "display_node": context.node_id,
                "output": self.sent,
                "prompt_id": context.prompt_id,
            },
            server.client_id,
        )
        forget(before)


def summary(evaluation: Evaluation) -> str:
    """Return CFRT and interval of each attribute in a line."""
    return " · ".join(
        f"{name} {result.cfrt:.3f} ({result.interval[0]:.3f}–{result.interval[1]:.3f})"
        for name, result in evaluation.results.items()
    )


def table_view(study: Study, threshold: float) -> dict[str, Any]:
    """Write the panel's file; return ``ui``."""
    evaluation = study.evaluation(SWAP, threshold=threshold)
    return cfrt_view(evaluation, evaluation.published)

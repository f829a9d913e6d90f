"""The composition root: which adapter stands behind which port."""

from mcpgw.wiring.worker import LEADER as LEADER
from mcpgw.wiring.worker import Worker as Worker

"""What a run is going to take, from a few of its steps: time, memory, arithmetic, money, on one device and on several.

``Probe`` is the callback that looks at the steps, ``Plan`` what follows from what it saw.
"""

from oboro.plan.plan import Item, Plan
from oboro.plan.probe import Probe

__all__ = ["Item", "Plan", "Probe"]

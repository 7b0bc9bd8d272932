"""What is wrong with a port: the catalogue of faults, and the port that any of them makes of a right one."""

from harness.diagnosis.fault import COMPONENTS, Fate, Fault, faulted
from harness.diagnosis.faults import CATALOGUE, by_name
from harness.diagnosis.port import Answer, Port, PortCrashed, Request

__all__ = [
    "CATALOGUE",
    "COMPONENTS",
    "Answer",
    "Fate",
    "Fault",
    "Port",
    "PortCrashed",
    "Request",
    "by_name",
    "faulted",
]

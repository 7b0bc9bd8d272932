"""The dictionary: the name of a bug from what a program printed, or the ids that it gave, and nothing else."""

from harness.diagnosis.naming.dictionary import diagnose
from harness.diagnosis.naming.evidence import Evidence, Noise, heard

__all__ = ["Evidence", "Noise", "diagnose", "heard"]

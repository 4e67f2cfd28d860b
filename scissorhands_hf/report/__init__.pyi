from .concept_report import ConceptErasureReport as ConceptErasureReport
from .concept_report import PromptScore as PromptScore
from .figures import METRICS as METRICS
from .figures import average_gap as average_gap
from .unlearning_report import UnlearningReport as UnlearningReport

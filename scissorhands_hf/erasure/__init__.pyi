from .erase import erase_concept as erase_concept
from .erasure_config import ConceptErasureConfig as ConceptErasureConfig
from .erasure_settings import ErasureSettings as ErasureSettings
from .mixin import ConceptErasureMixin as ConceptErasureMixin
from .mixin import enable_concept_erasure as enable_concept_erasure
from .progress import STAGES as STAGES
from .progress import ErasureProgress as ErasureProgress
from .report_prompts import paraphrases as paraphrases

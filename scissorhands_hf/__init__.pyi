from . import audit as audit
from .audit import probe_concept as probe_concept
from .erasure import ConceptErasureConfig as ConceptErasureConfig
from .erasure import ConceptErasureMixin as ConceptErasureMixin
from .erasure import ErasureProgress as ErasureProgress
from .erasure import enable_concept_erasure as enable_concept_erasure
from .erasure import erase_concept as erase_concept
from .report import ConceptErasureReport as ConceptErasureReport
from .report import LanguageReport as LanguageReport
from .report import ProbeReport as ProbeReport
from .report import UnlearningReport as UnlearningReport
from .trainer import RECIPES as RECIPES
from .trainer import ScissorhandsConfig as ScissorhandsConfig
from .trainer import ScissorhandsTrainer as ScissorhandsTrainer
from .trainer import UnlearningDivergedError as UnlearningDivergedError

__version__: str

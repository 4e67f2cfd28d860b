from .evaluation_checks import likeliest_tokens as likeliest_tokens
from .monitoring import UnlearningDivergedError as UnlearningDivergedError
from .recipes import RECIPES as RECIPES
from .scissorhands_config import ScissorhandsConfig as ScissorhandsConfig
from .scissorhands_trainer import ScissorhandsTrainer as ScissorhandsTrainer
from .unlearning_settings import UnlearningSettings as UnlearningSettings

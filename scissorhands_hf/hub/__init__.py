"""From a finished run to a repository that its reader trusts and its user loads with one stock line."""

from .card_info import CardInfo
from .errors import HubPushError, UploadRefusedError
from .pipelines import push_pipeline, save_pipeline
from .push import push_folder
from .render import write_card


__all__ = ["CardInfo", "HubPushError", "UploadRefusedError", "push_folder", "push_pipeline", "save_pipeline", "write_card"]

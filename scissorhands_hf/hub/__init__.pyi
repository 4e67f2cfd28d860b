from .card_info import CardInfo as CardInfo
from .errors import HubPushError as HubPushError
from .errors import UploadRefusedError as UploadRefusedError
from .pipelines import push_pipeline as push_pipeline
from .pipelines import save_pipeline as save_pipeline
from .push import push_folder as push_folder
from .render import write_card as write_card

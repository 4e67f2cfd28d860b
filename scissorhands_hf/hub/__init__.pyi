from .connection import HubPushError as HubPushError
from .connection import UploadRefusedError as UploadRefusedError
from .pipelines import push_pipeline as push_pipeline
from .pipelines import save_pipeline as save_pipeline
from .push import push_folder as push_folder
from .readme import write_card as write_card
from .run import CardInfo as CardInfo

from .drawing import draw_pictures as draw_pictures
from .judges import Judge as Judge
from .judges import load_judge as load_judge
from .measures import membership_attack as membership_attack
from .measures import unlearning_metrics as unlearning_metrics
from .probes import AuditPrompt as AuditPrompt
from .probes import audit_metrics as audit_metrics
from .probes import compare_pictures as compare_pictures

"""The room as a whole: what it imports, and steps 1 to 3 in one call."""

import subprocess
import sys

import torch
from tiny_models import tiny_cnn

from scissorhands_hf.core import connection_sensitivity, exact_threshold, relative_sensitivity, trim_model


def test_the_room_imports_torch_only() -> None:
    code = (
        "import sys, scissorhands_hf.core\n"
        "print(*sorted({'transformers', 'accelerate', 'datasets', 'diffusers', 'safetensors', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""


def test_trim_model_accounts_for_what_it_cut() -> None:
    model, batch = tiny_cnn()
    model.eval()
    with torch.no_grad():  # no fresh value equals an old one
        for parameter in model.parameters():
            parameter.add_(0.3)
    parameters = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    targets = {name: p for name, p in parameters.items() if name.startswith("head")}
    losses = [lambda: model(**batch)["loss"]]
    threshold, total = exact_threshold(connection_sensitivity(losses, parameters).values(), 0.4)

    account = trim_model(model, losses, parameters, targets, ratio=0.4, seed=3)

    changed = {name: int((p != before[name]).sum()) for name, p in parameters.items()}
    assert (account.threshold, account.candidates, account.above_threshold) == (threshold, total, int(0.4 * total))
    assert account.trimmed == sum(changed.values()) > 0
    assert {name for name, count in changed.items() if count} <= set(targets)
    assert account.per_module == {"head": {"trimmed": account.trimmed, "weights": sum(p.numel() for p in targets.values())}}
    assert account.seconds.keys() == {"sensitivity", "trim"}


def test_trim_model_with_retain_losses_cuts_by_relative_sensitivity() -> None:
    model, batch = tiny_cnn()
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3)
    parameters = dict(model.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    first, second = ({key: value[part] for key, value in batch.items()} for part in (slice(0, 3), slice(3, None)))
    forget, retain = [lambda: model(**first)["loss"]], [lambda: model(**second)["loss"]]
    scores = relative_sensitivity(forget, retain, parameters)
    threshold, _ = exact_threshold(scores.values(), 0.1)

    account = trim_model(model, forget, parameters, parameters, ratio=0.1, seed=3, retain_losses=retain)

    assert account.threshold == threshold and account.trimmed > 0
    for name, parameter in parameters.items():
        assert not ((parameter != before[name]) & (scores[name] <= threshold)).any()
    plain, _ = exact_threshold(connection_sensitivity(forget, parameters).values(), 0.1)
    assert account.threshold != plain

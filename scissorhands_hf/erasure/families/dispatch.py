"""Which family a pipeline belongs to, by the diffusers classes that it and its denoiser are made from."""

import inspect
from typing import Any, NoReturn

from .family import Family
from .pipeline_checks import refuse
from .transformer import FluxFamily, PixArtFamily, StableDiffusion3Family
from .unet import StableDiffusionFamily, StableDiffusionXLFamily


# Pipeline class and denoiser, by their diffusers names: subclasses and classes swapped in place count as what they derive from.
SUPPORTED: dict[str, tuple[str, type[Family]]] = {
    "StableDiffusionPipeline": ("UNet2DConditionModel", StableDiffusionFamily),
    "StableDiffusionXLPipeline": ("UNet2DConditionModel", StableDiffusionXLFamily),
    "StableDiffusion3Pipeline": ("SD3Transformer2DModel", StableDiffusion3Family),
    "FluxPipeline": ("FluxTransformer2DModel", FluxFamily),
    "PixArtAlphaPipeline": ("PixArtTransformer2DModel", PixArtFamily),
    "PixArtSigmaPipeline": ("PixArtTransformer2DModel", PixArtFamily),
}


def family_of(pipe: Any) -> Family:
    """
    What erasing needs to know of `pipe`.

    Raises:
        TypeError: `pipe` is no diffusers pipeline.
        ValueError: the pipeline or a part of it is not supported; the message says which, and what is.
    """
    bases = [base.__name__ for base in type(pipe).__mro__]
    if "DiffusionPipeline" not in bases:
        raise TypeError(f"pipe is a {type(pipe).__name__}; a diffusers pipeline is needed. {_supported()}")
    for base in bases:
        if base in SUPPORTED:
            denoiser, family = SUPPORTED[base]
            part = getattr(pipe, family.denoiser_name, None)
            if denoiser not in _names(part):
                got = "missing" if part is None else f"a {type(part).__name__}"
                refuse(pipe, f"its {family.denoiser_name} is {got}", f"A {denoiser} is needed. {_supported()}")
            _check_call(pipe)
            return family(pipe)
    _refuse_unknown(pipe)


def _check_call(pipe: Any) -> None:
    """A subclass may have changed what its call needs: pictures are drawn from prompts alone."""
    arguments = inspect.signature(type(pipe).__call__).parameters
    flexible = any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values())
    for name in ("prompt", "generator", "output_type"):
        if name not in arguments and not flexible:
            refuse(pipe, f"its call has no argument {name!r}", _supported())
    for name, argument in list(arguments.items())[1:]:
        positional = argument.kind in (argument.POSITIONAL_OR_KEYWORD, argument.KEYWORD_ONLY)
        if name != "prompt" and positional and argument.default is argument.empty:
            refuse(pipe, f"its call needs {name!r}, so it does not draw from a prompt alone", _supported())


def _refuse_unknown(pipe: Any) -> NoReturn:
    """Name the pipeline, and the supported one that could be built from the same components."""
    for name, (denoiser, family) in reversed(SUPPORTED.items()):
        fits = denoiser in _names(getattr(pipe, family.denoiser_name, None))
        if fits and all(getattr(pipe, part, None) is not None for part in family.parts):
            family(pipe)  # refuses what the supported pipeline would not take either, and says why
            build = f"build one with {name}.from_pipe(pipe, torch_dtype=pipe.dtype)"
            if not type(pipe).__module__.startswith("diffusers."):  # from_pipe needs what only diffusers' own classes declare
                build = f"derive its class from {name}, or build one with {name}(vae=pipe.vae, ...),"
            way_out = f"Its components are those of a {name}: {build} and erase from that; "
            way_out += "the weights are shared, so this pipeline forgets as well."
            refuse(pipe, "this kind of pipeline is not known here", way_out)
    refuse(pipe, "this kind of pipeline is not known here", _supported())


def _names(part: Any) -> list[str]:
    return [base.__name__ for base in type(part).__mro__]


def _supported() -> str:
    return f"Supported are {', '.join(SUPPORTED)} and pipelines derived from them."

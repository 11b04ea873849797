"""From a profile's settings to a loaded encoder, on a device."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from configs import UserError, first_line
from configs.schema import Encoder, Profile, View
from extract.augmenting.views import Augmenter
from extract.encoders.acoustic import load_functionals_encoder, load_spectrum_encoder
from extract.encoders.audio import load_audio_encoder
from extract.encoders.encoder import LoadedEncoder
from extract.encoders.features import load_features
from extract.encoders.text import load_text_encoder
from extract.encoders.video import load_video_encoder
from extract.media.decoding import default_device

LOADERS = {  # by modality, or by families that are not as the others of theirs
    "audio": load_audio_encoder,
    "video": load_video_encoder,
    "text": load_text_encoder,
    "spectrum": load_spectrum_encoder,
    "functionals": load_functionals_encoder,
    "features": load_features,
}


def load_encoder(profile: Profile, name: str, device: str) -> LoadedEncoder:
    """The profile's encoder of this name, or one of its views, on a device (``auto``: a CUDA GPU if there is one;
    ``mps`` is Apple's).

    Of several devices (``cuda:0,cuda:1``) all are tried; the encoder is loaded on the CPU, for its settings, and the
    processes of the devices load their own.

    Raises:
        UserError: there is no such device, or the encoder cannot be loaded; the line names it.
    """
    chosen = default_device() if device == "auto" else device
    for each in chosen.split(","):
        try:
            torch.empty(0, device=each)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"--device {device}: {first_line(error)}") from error
    try:
        return load(profile.encoder(name), torch.device("cpu" if "," in chosen else chosen))
    except UserError as error:
        raise UserError(f"encoders.{name}: {error}") from error


def load(settings: Encoder, device: torch.device) -> LoadedEncoder:
    """An encoder by its settings. Raises UserError where it cannot be loaded."""
    if isinstance(settings, View):
        return seen_as(load(settings.plain, device), settings)
    return LOADERS.get(settings.family, LOADERS[settings.modality])(settings, device)


def load_several(settings: Sequence[Encoder], device: torch.device) -> list[LoadedEncoder]:
    """Encoders of a pass; views share the network of theirs."""
    plain: dict[str, LoadedEncoder] = {}
    loaded = []
    for each in settings:
        own = each.plain if isinstance(each, View) else each
        key = own.model_dump_json()
        if key not in plain:
            plain[key] = load(own, device)
        loaded.append(seen_as(plain[key], each) if isinstance(each, View) else plain[key])
    return loaded


def seen_as(encoder: LoadedEncoder, view: View) -> LoadedEncoder:
    """One of the views of a loaded encoder, with the same network."""
    augment = Augmenter(view)
    return replace(encoder, spec=view, fields=encoder.fields | augment.fields, augment=augment)

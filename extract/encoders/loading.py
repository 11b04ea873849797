"""From a profile's settings to a loaded encoder, on a device."""

import torch

from configs import Profile, UserError, first_line
from configs.schema import Encoder
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
    """The profile's encoder of this name on a device (``auto``: a CUDA GPU if there is one; ``mps`` is Apple's).

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
        return load(profile.encoders[name], torch.device("cpu" if "," in chosen else chosen))
    except UserError as error:
        raise UserError(f"encoders.{name}: {error}") from error


def load(settings: Encoder, device: torch.device) -> LoadedEncoder:
    """An encoder by its settings. Raises UserError where it cannot be loaded."""
    return LOADERS.get(settings.family, LOADERS[settings.modality])(settings, device)

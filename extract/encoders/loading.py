"""From a profile's settings to a loaded encoder, on a device."""

import torch

from configs import Profile, UserError
from configs.schema import Modality
from extract.encoders.audio import load_audio_encoder
from extract.encoders.encoder import LoadedEncoder
from extract.encoders.text import load_text_encoder
from extract.encoders.video import load_video_encoder

LOADERS = {"audio": load_audio_encoder, "video": load_video_encoder, "text": load_text_encoder}


def load_encoder(profile: Profile, modality: Modality, device: str) -> LoadedEncoder:
    """The profile's encoder for a modality on a device (``auto``: a GPU if there is one).

    Of several devices (``cuda:0,cuda:1``) all are tried; the encoder is loaded on the CPU, for its settings, and the
    processes of the devices load their own.
    """
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    for name in chosen.split(","):
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from error
    chosen = "cpu" if "," in chosen else chosen
    return LOADERS[modality](profile.encoders[modality], torch.device(chosen))

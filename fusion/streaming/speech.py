"""Whether anybody speaks: Silero's voice activity detector, whose ONNX model lies in its package (MIT licence)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from configs import UserError
from extract.media.reading import SAMPLE_RATE

CHUNK, CONTEXT, WIDTH = 512, 64, 128  # samples, samples before them that it sees, numbers of its state
LEAST_SPEECH = 0.25  # seconds of a window in which somebody speaks, below which it has no speech
MISSING = "--vad: needs silero-vad and onnxruntime; install them with: pip install -e '.[live]', or give --vad off"


class Ear:
    """Looks at each window by itself, so that equal windows get equal answers.

    Args:
        threshold: probability of speech, 0 to 1, from which 32 ms count as speech.
    Raises:
        UserError: the detector is not installed.
    """

    def __init__(self, threshold: float) -> None:
        found = find_spec("silero_vad")  # found and not imported: torch's hub is no business of ours
        if found is None or found.origin is None:
            raise UserError(MISSING)
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(MISSING) from error
        self._threshold = threshold
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1  # a window takes milliseconds
        model = Path(found.origin).parent / "data" / "silero_vad_16k_sequence.onnx"
        self._session: Any = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])

    def speech_seconds(self, samples: np.ndarray) -> float:
        """For how long somebody speaks in (samples,) at 16 kHz."""
        n_chunks = -(-len(samples) // CHUNK)
        padded = np.zeros(CONTEXT + n_chunks * CHUNK, dtype=np.float32)
        padded[CONTEXT : CONTEXT + len(samples)] = samples
        chunks = np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK)[::CHUNK]
        state = np.zeros((1, 1, WIDTH), dtype=np.float32)
        chance = self._session.run(None, {"input": np.ascontiguousarray(chunks), "h": state, "c": state})[0]
        return float((chance >= self._threshold).sum()) * CHUNK / SAMPLE_RATE

"""What a profile may say of augmented views of clips: how each is changed before its encoder reads it."""

from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from configs.sections.common import Modality, Section, Share


def _is_range(given: Any) -> Any:
    numbers = isinstance(given, list) and all(type(each) in (int, float) for each in given)
    if not numbers or len(given) != 2 or not given[0] < given[1]:
        raise ValueError("is a range, a lower and a higher number: write it as [LOW, HIGH]")
    return given


def _within(low: float, high: float) -> AfterValidator:
    def checked(pair: list[float]) -> list[float]:
        if not low <= pair[0] <= pair[1] <= high:
            raise ValueError(f"reaches out of what makes sense, {low:g} to {high:g}")
        return pair

    return AfterValidator(checked)


Between = Annotated[list[float], BeforeValidator(_is_range)]


class Augment(Section):
    """Ranges that each view of each clip draws from, evenly, and chances. What is left out is not changed."""

    # Audio, in this order; Hz are drawn evenly by their logarithm.
    speed: Annotated[Between, _within(0.5, 2)] | None = None  # times faster, and higher with it
    pitch: Annotated[Between, _within(-12, 12)] | None = None  # semitones higher, as long as before
    noise_db: Annotated[Between, _within(-20, 100)] | None = None  # level above that of white noise
    highpass: Annotated[Between, _within(20, 2000)] | None = None  # Hz: what is lower is damped
    lowpass: Annotated[Between, _within(500, 7900)] | None = None  # Hz: what is higher is damped
    gain_db: Annotated[Between, _within(-40, 40)] | None = None  # louder by so much
    # Video: the same for all frames of a clip.
    crop: Annotated[Between, _within(0.2, 1)] | None = None  # share of each side of the square that is seen
    brightness: Annotated[Between, _within(0.1, 4)] | None = None  # times brighter
    mirror: Share | None = None  # chance that left and right are exchanged
    # Text
    word_dropout: Annotated[float, Field(gt=0, lt=1)] | None = None  # chance that a word is left out; never of all

    @property
    def stated(self) -> dict[str, Any]:
        """What is changed."""
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _changes_something(self) -> "Augment":
        if not self.stated:
            raise ValueError("changes nothing: name what views differ in, such as speed: [0.9, 1.1]")
        if self.highpass and self.lowpass and self.highpass[1] >= self.lowpass[0]:
            raise ValueError("highpass: reaches above lowpass: little would be left to hear")
        return self

    def unfit(self, modality: Modality) -> str | None:
        """The first setting that is for something else than what an encoder reads."""
        of = next((name for name in self.stated if name not in CHANGES[modality]), None)
        return of and f"augment.{of}: is for {_modality_of(of)}, and this encoder reads {modality}"


CHANGES: dict[str, tuple[str, ...]] = {
    "audio": ("speed", "pitch", "noise_db", "highpass", "lowpass", "gain_db"),
    "video": ("crop", "brightness", "mirror"),
    "text": ("word_dropout",),
}


def _modality_of(name: str) -> str:
    return next(modality for modality in get_args(Modality) if name in CHANGES[modality])

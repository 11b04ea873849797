"""What a profile may say of views."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import UserError
from configs.profiles import load

AUDIO = {"family": "wav2vec2", "model": "./m"}


def loaded(path: Path, **encoder: Any) -> Any:
    path = path / "p.yaml"
    stated = {
        "name": "p",
        "seed": 7,
        "dataset": {"adapter": "avamerg", "root": "."},
        "encoders": {"voice": AUDIO | encoder},
        "heads": {"h": {"inputs": ["voice"]}},
    }
    path.write_text(yaml.safe_dump(stated))
    return load(str(path))


def test_views_have_names_and_the_profiles_seed(tmp_path: Path) -> None:
    profile = loaded(tmp_path, views=2, augment={"speed": [0.9, 1.1]})
    assert profile.views_of("voice") == ["voice@1", "voice@2"]
    view = profile.encoder("voice@2")
    assert (view.number, view.seed, view.augment.stated) == (2, 7, {"speed": [0.9, 1.1]})
    assert view.plain == profile.encoder("voice") == profile.encoders["voice"]
    assert profile.store_path("voice@2") == Path("runs/p/stores/voice@2")


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ({"views": 3}, r"encoders.voice: views: of what\?"),
        (
            {"views": 0, "augment": {"speed": [0.9, 1.1]}},
            "encoders.voice: augment: changes views, of which there are none",
        ),
        ({"augment": {"sped": [0.9, 1.1]}}, r"augment.sped: no such setting: did you mean speed\?"),
        ({"augment": {}}, "augment: changes nothing"),
        ({"augment": {"mirror": 0.5}}, "augment.mirror: is for video, and this encoder reads audio"),
        ({"augment": {"speed": 1.1}}, r"augment.speed = 1.1: is a range, .*\[LOW, HIGH\]"),
        ({"augment": {"speed": [1.1, 0.9]}}, r"augment.speed = \[1.1, 0.9\]: is a range"),
        ({"augment": {"speed": [False, True]}}, r"augment.speed = \[False, True\]: is a range"),
        ({"augment": {"pitch": [-30, 2]}}, r"augment.pitch = \[-30, 2\]: reaches out of what makes sense, -12 to 12"),
        ({"augment": {"highpass": [100, 900], "lowpass": [800, 3000]}}, "highpass: reaches above lowpass"),
        ({"boundary": 1, "augment": {"pitch": [-2, 2]}}, "views: not with a boundary"),
        ({"family": "features", "model": "", "source": "x", "modality": "audio"}, "views: features are read as they"),
        ({"views": 101}, "encoders.voice.views = 101: "),
    ],
)
def test_what_makes_no_sense_ends_in_one_line(tmp_path: Path, encoder: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        loaded(tmp_path, **{"views": 3} | encoder)
    assert "\n" not in str(error.value)

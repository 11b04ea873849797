"""What the sample's people look like, and what their faces do when they feel something."""

from dataclasses import dataclass

Colour = tuple[int, int, int]  # RGB


@dataclass(frozen=True)
class Look:
    """A person's looks. Lengths are in head heights."""

    skin: Colour
    hair: Colour
    iris: Colour
    shirt: Colour
    wall: Colour
    style: str  # of the hair: short, bald, bob, long, bun, curls
    width: float  # of the head
    chin: float  # 0 pointed to 1 square
    eye: float  # size of the eyes
    brow: float  # thickness of the brows
    lips: Colour
    lashes: bool = False
    beard: bool = False
    glasses: bool = False
    wrinkles: bool = False


LOOKS = {  # by person ID
    3: Look(
        skin=(232, 190, 160),
        hair=(70, 45, 30),
        iris=(80, 110, 60),
        shirt=(60, 90, 140),
        wall=(196, 202, 206),
        style="short",
        width=0.74,
        chin=0.6,
        eye=1.0,
        brow=0.030,
        lips=(190, 120, 110),
    ),
    8: Look(
        skin=(155, 105, 75),
        hair=(30, 22, 20),
        iris=(60, 35, 20),
        shirt=(160, 60, 80),
        wall=(202, 200, 196),
        style="bob",
        width=0.72,
        chin=0.4,
        eye=1.0,
        brow=0.020,
        lips=(150, 60, 65),
        lashes=True,
    ),
    14: Look(
        skin=(240, 205, 185),
        hair=(215, 215, 215),
        iris=(90, 120, 150),
        shirt=(90, 90, 85),
        wall=(192, 198, 198),
        style="bald",
        width=0.75,
        chin=0.7,
        eye=0.85,
        brow=0.034,
        lips=(190, 135, 125),
        wrinkles=True,
        glasses=True,
    ),
    21: Look(
        skin=(248, 214, 190),
        hair=(190, 130, 60),
        iris=(70, 110, 160),
        shirt=(240, 190, 70),
        wall=(200, 206, 210),
        style="curls",
        width=0.84,
        chin=0.3,
        eye=1.25,
        brow=0.016,
        lips=(220, 130, 130),
        lashes=True,
    ),
    27: Look(
        skin=(225, 180, 150),
        hair=(190, 190, 200),
        iris=(90, 70, 50),
        shirt=(120, 80, 130),
        wall=(204, 202, 204),
        style="bun",
        width=0.72,
        chin=0.45,
        eye=0.9,
        brow=0.018,
        lips=(180, 90, 95),
        lashes=True,
        wrinkles=True,
    ),
    33: Look(
        skin=(205, 155, 115),
        hair=(25, 20, 20),
        iris=(50, 30, 20),
        shirt=(70, 130, 90),
        wall=(194, 196, 202),
        style="short",
        width=0.70,
        chin=0.5,
        eye=1.0,
        brow=0.028,
        lips=(175, 105, 95),
        glasses=True,
    ),
    46: Look(
        skin=(244, 205, 180),
        hair=(165, 70, 40),
        iris=(80, 140, 110),
        shirt=(80, 150, 160),
        wall=(202, 204, 200),
        style="long",
        width=0.72,
        chin=0.3,
        eye=1.1,
        brow=0.018,
        lips=(205, 80, 85),
        lashes=True,
    ),
    52: Look(
        skin=(142, 96, 68),
        hair=(20, 16, 15),
        iris=(45, 28, 18),
        shirt=(200, 200, 205),
        wall=(196, 200, 204),
        style="short",
        width=0.76,
        chin=0.8,
        eye=0.95,
        brow=0.034,
        lips=(125, 70, 60),
        beard=True,
    ),
}


@dataclass(frozen=True)
class Expression:
    """A face's state, as departures from rest; the unit of most is 'as far as this face can'."""

    brow_in: float = 0.0  # inner ends up (+) or down and together (-)
    brow_out: float = 0.0  # outer ends up or down
    brow_skew: float = 0.0  # one brow up, the other down
    lid: float = 0.0  # upper lids down (+) or torn open (-)
    cheek: float = 0.0  # lower lids pushed up
    corner: float = 0.0  # mouth's corners up or down
    corner_skew: float = 0.0  # one corner up, the other down
    open: float = 0.0  # jaw, on top of what speaking does
    wide: float = 0.0  # mouth stretched (+) or rounded (-)
    sneer: float = 0.0  # upper lip raised, nose wrinkled
    teeth: float = 0.0
    gaze_x: float = 0.0
    gaze_y: float = 0.0  # down is positive
    roll: float = 0.0  # degrees
    pitch: float = 0.0  # head down (+)
    near: float = 0.0  # head towards the camera
    flush: float = 0.0  # redder (+) or paler (-)
    tremble: float = 0.0
    nod: float = 0.0
    shake: float = 0.0
    tears: float = 0.0


EXPRESSIONS = {
    "neutral": Expression(),
    "happy": Expression(
        brow_in=0.2,
        brow_out=0.3,
        lid=0.15,
        cheek=0.9,
        corner=1.0,
        open=0.5,
        wide=0.7,
        teeth=1,
        nod=0.6,
        flush=0.3,
    ),
    "surprised": Expression(
        brow_in=1.0,
        brow_out=1.0,
        lid=-1.0,
        open=1.5,
        wide=-0.7,
        near=0.03,
        nod=0.2,
    ),
    "angry": Expression(
        brow_in=-1.0,
        brow_out=0.6,
        lid=0.25,
        cheek=0.3,
        corner=-0.5,
        open=0.35,
        wide=0.3,
        teeth=1,
        near=0.15,
        pitch=0.4,
        flush=1.0,
        shake=0.5,
    ),
    "fear": Expression(
        brow_in=1.0,
        brow_out=-0.3,
        lid=-0.9,
        corner=-0.4,
        open=0.3,
        wide=1.1,
        teeth=1,
        gaze_x=0.4,
        flush=-1.0,
        tremble=1.0,
        near=-0.22,
        pitch=-0.2,
    ),
    "sad": Expression(
        brow_in=0.9,
        brow_out=-1.0,
        lid=0.6,
        corner=-1.0,
        wide=-0.4,
        gaze_y=0.9,
        roll=8,
        pitch=1.2,
        flush=-0.2,
        tears=1,
    ),
    "disgusted": Expression(
        brow_in=-0.6,
        brow_out=-0.2,
        lid=0.5,
        cheek=0.9,
        corner=-0.8,
        open=0.35,
        wide=0.1,
        sneer=1.2,
        gaze_x=-0.6,
        roll=-6,
        pitch=-0.8,
        near=-0.05,
        shake=0.3,
    ),
    "contempt": Expression(
        brow_skew=1.0,
        lid=0.5,
        corner=0.1,
        corner_skew=1.0,
        wide=-0.1,
        gaze_x=0.9,
        gaze_y=0.3,
        roll=16,
        pitch=-0.9,
    ),
}

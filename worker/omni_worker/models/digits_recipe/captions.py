"""What a prompt can request, and in which words. Pure: no model, no pictures.

A `Request` is what a picture must show; a caption is one way to ask for it. Most training captions have the canonical
form, about a quarter are worded as a visitor might, so that "red 3 on grey" works as well.
"""

from dataclasses import dataclass
from random import Random

Rgb = tuple[float, float, float]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS: dict[str, Rgb] = {
    "red": (1.0, 0.15, 0.15),
    "green": (0.2, 0.85, 0.2),
    "blue": (0.25, 0.4, 1.0),
    "yellow": (1.0, 0.9, 0.1),
    "cyan": (0.1, 0.9, 0.9),
    "magenta": (1.0, 0.2, 0.9),
    "orange": (1.0, 0.55, 0.1),
    "white": (1.0, 1.0, 1.0),
}
BACKGROUNDS: dict[str, Rgb] = {"black": (0.0, 0.0, 0.0), "grey": (0.3, 0.3, 0.3)}

NULL_PROMPT = " "
"""What users of Qwen-Image pass as `negative_prompt` to switch guidance on: the model learns it as "anything"."""

UNKNOWN = "<unk>"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", UNKNOWN)
TEMPLATE_WORDS = """
    system user assistant describe the image by detailing color shape size texture quantity text spatial relationships
    of objects and background
"""
CONNECTING_WORDS = """
    a an in on with please draw paint write show me picture drawing photo handwritten written digit number numeral
    figure colour coloured colored gray backdrop over against is it bright
"""
PUNCTUATION = tuple("\n.,:;!?'\"()-")


@dataclass(frozen=True)
class Request:
    """What a picture must show: a digit, 0 to 9, in a colour on a background."""

    digit: int
    colour: str
    background: str

    @property
    def caption(self) -> str:
        """The canonical wording; its number of tokens is the same for every request."""
        return f"{_article(self.colour)} {self.colour} {DIGITS[self.digit]} on {self.background} background"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def vocabulary() -> dict[str, int]:
    """Every token the model knows, lower case, with its id; the same on every call."""
    numerals = [str(digit) for digit in range(10)]
    others = [*TEMPLATE_WORDS.split(), *CONNECTING_WORDS.split()]
    words = [*SPECIAL, *PUNCTUATION, *numerals, *DIGITS, *COLOURS, *BACKGROUNDS, *others]
    return {word: index for index, word in enumerate(dict.fromkeys(words))}


def random_request(random: Random) -> Request:
    """A random request; all 160 are equally likely."""
    return Request(random.randrange(10), random.choice(list(COLOURS)), random.choice(list(BACKGROUNDS)))


def random_requests(count: int, seed: int) -> list[Request]:
    """`count` random requests, the same for the same seed."""
    random = Random(seed)
    return [random_request(random) for _ in range(count)]


def wording(request: Request, random: Random) -> str:
    """A caption for `request`: canonical three times in four, otherwise in a visitor's words."""
    if random.random() < 0.75:
        return request.caption
    return _with_noise(_visitor(request, random), random)


def _visitor(request: Request, random: Random) -> str:
    digit = random.choice([DIGITS[request.digit], str(request.digit)])
    noun = random.choice(["", "", "", "digit ", "number ", "numeral ", "figure "])
    article = random.choice(["", "a ", "a ", "an ", "the "])
    manner = random.choice(["", "", "", "handwritten "])
    hue = request.colour + random.choice(["", "", "", " colored", " coloured"])
    subject = random.choice(
        [
            f"{article}{manner}{hue} {noun}{digit}",
            f"{article}{manner}{noun}{digit} in {request.colour}",
            f"{article}{manner}{noun}{digit}, {request.colour}",
            f"{hue} {digit}",
            f"{digit} {request.colour}",
            f"{digit} in {request.colour}",
        ]
    )
    opening = random.choice(["", "", "", "", "draw ", "draw me ", "paint ", "please draw ", "a picture of ", "write "])
    return _placed(opening + subject, request.background, random)


def _placed(subject: str, background: str, random: Random) -> str:
    """Add the background. Black is left out half of the time, so that it becomes the default."""
    if background == "black" and random.random() < 0.5:
        return subject
    shade = random.choice(["grey", "gray"]) if background == "grey" else background
    ground = random.choice([f"{shade} background", f"{shade} background", shade, f"{shade} backdrop"])
    article = random.choice(["", "a ", "the "]) if ground != shade else ""
    preposition = random.choice(["on", "on", "on", "over", "against", "with"]) if ground != shade else "on"
    return random.choice(
        [
            f"{subject} {preposition} {article}{ground}",
            f"{subject} {preposition} {article}{ground}",
            f"{subject}, {ground}",
            f"on {article}{ground}, {subject}" if ground != shade else f"on {shade}, {subject}",
        ]
    )


def _with_noise(caption: str, random: Random) -> str:
    """Sometimes add an unknown word or punctuation, which must change nothing."""
    if random.random() < 0.2:
        words = caption.split(" ")
        words.insert(random.randrange(len(words) + 1), UNKNOWN)
        caption = " ".join(words)
    return caption + random.choice(["", "", "", "", ".", "!"])

"""The questions that the thinker answers, and their wordings. Pure: no model, no pictures.

A `Question` is a sum with one digit as its result, and perhaps a colour and a background; its answer is the painter's
canonical caption. Some sums are held out: they never occur in training, not even as neighbours in a longer sum, so a
right answer to one of them was worked out and not remembered.
"""

from dataclasses import dataclass
from random import Random

from omni_worker.models.digits_recipe.captions import (
    BACKGROUNDS,
    COLOURS,
    DIGITS,
    PUNCTUATION,
    UNKNOWN,
    Request,
)

PLUS, MINUS = "+", "-"
DEFAULT_COLOUR, DEFAULT_BACKGROUND = "white", "black"
LONGEST = 5
HELD_OUT_FAMILIES = 5
HELD_OUT_SEED = 20

START, ANSWER, END = "<|question|>", "<|answer|>", "<|endoftext|>"
SPECIAL = (END, START, ANSWER, UNKNOWN)

PLUS_WORDS = ("plus", "plus", "+", "+", "and")
MINUS_WORDS = ("minus", "minus", "-", "-", "less", "take away")
ADDED = (
    "the sum of {a} and {b}",
    "sum of {a} and {b}",
    "{a} added to {b}",
    "add {a} and {b}",
    "add {a} to {b}",
    "{b} more than {a}",
)
SUBTRACTED = (
    "the difference of {a} and {b}",
    "the difference between {a} and {b}",
    "subtract {b} from {a}",
    "{b} subtracted from {a}",
    "{b} less than {a}",
    "take {b} from {a}",
    "take {b} away from {a}",
)
FRAMES = (
    *(["{}"] * 6),
    *("what is {}", "what's {}", "how much is {}", "what does {} make", "what does {} equal", "what do you get for {}"),
    *("draw {}", "draw me {}", "please draw {}", "paint {}", "show me {}", "write {}", "can you draw {}"),
    *("compute {}", "calculate {}", "work out {}", "tell me {}", "give me {}", "i would like {}"),
    *("the answer to {}", "draw the result of {}", "a picture of {}", "the number {}", "the digit {}"),
)
IN_COLOUR = (" in {}", ", in {}", ", {}", " in {} ink", ", coloured {}", ", colored {}", ", written in {}")
COLOUR_FIRST = ("in {}, ", "in {}: ", "{}: ", "{} ", "a {} ")
IN_COLOUR_AFTERWARDS = (
    "? draw it in {}",
    "? paint the answer in {}",
    "? in {} please",
    ". make it {}",
    ". draw the result in {}",
)
ON_BACKGROUND = (
    " on {}",
    " on {}",
    " on a {} background",
    " on {} background",
    " on the {} background",
    ", {} background",
    ", on {}",
    " with a {} background",
    " against {}",
    " over {}",
    " on a {} backdrop",
)
BACKGROUND_FIRST = ("on {}, ", "on a {} background, ", "on {}: ")
ENDINGS = ("", "", "", "", "?", "?", ".", "!", " please", ", please", " =", " = ?")

Pair = tuple[int, str, int]
"""Two digits and the sign between them."""


@dataclass(frozen=True)
class Sum:
    """A digit, then digits to add or to subtract; the result of a sum that can be asked is a digit too."""

    first: int
    steps: tuple[tuple[str, int], ...] = ()

    @property
    def result(self) -> int:
        return self.first + sum(digit if sign == PLUS else -digit for sign, digit in self.steps)

    @property
    def pairs(self) -> list[Pair]:
        """Every two neighbours with the sign between them."""
        digits = [self.first, *(digit for _, digit in self.steps)]
        return [(left, sign, right) for left, (sign, right) in zip(digits, self.steps, strict=False)]


@dataclass(frozen=True)
class Question:
    """A sum, and the colour and background of its result; None for what the question leaves out."""

    sum: Sum
    colour: str | None = None
    background: str | None = None

    @property
    def request(self) -> Request:
        """What the painter must show."""
        return Request(self.sum.result, self.colour or DEFAULT_COLOUR, self.background or DEFAULT_BACKGROUND)


def all_pairs() -> list[Pair]:
    """The 110 sums of two digits that have one digit as their result."""
    digits = range(10)
    added = [(a, PLUS, b) for a in digits for b in digits if a + b <= 9]
    return added + [(a, MINUS, b) for a in digits for b in digits if a >= b]


def held_out_pairs() -> frozenset[Pair]:
    """The sums kept from training: whole families, as 3 + 4, 4 + 3, 7 - 3 and 7 - 4 are one; none with a zero."""
    families = [(a, b) for a in range(1, 10) for b in range(a, 10) if a + b <= 9]
    pairs: set[Pair] = set()
    for a, b in Random(HELD_OUT_SEED).sample(families, HELD_OUT_FAMILIES):
        pairs |= {(a, PLUS, b), (b, PLUS, a), (a + b, MINUS, a), (a + b, MINUS, b)}
    return frozenset(pairs)


HELD_OUT = held_out_pairs()
TRAINING_PAIRS = tuple(pair for pair in all_pairs() if pair not in HELD_OUT)


def training_question(random: Random) -> Question:
    """A question for training: two digits, more (so that the thinker learns to count instead of a table), or one."""
    kind = random.random()
    if kind < 0.15:
        first, sign, second = random.choice(TRAINING_PAIRS)
        asked = Sum(first, ((sign, second),))
    else:
        asked = _walk(0 if kind < 0.19 else random.randint(2, LONGEST - 1), random)
    return with_random_style(asked, random)


def held_out_questions(count: int, seed: int) -> list[Question]:
    """`count` questions about held-out sums, evenly, in all colours and on all backgrounds."""
    random = Random(seed)
    pairs = sorted(HELD_OUT)
    chosen = [pairs[index % len(pairs)] for index in range(count)]
    return [with_random_style(Sum(first, ((sign, second),)), random) for first, sign, second in chosen]


def with_random_style(asked: Sum, random: Random) -> Question:
    """A question about the sum, in a random colour on a random background; it sometimes leaves these out."""
    colour = random.choice(list(COLOURS)) if random.random() < 0.85 else None
    background = random.choice(list(BACKGROUNDS)) if random.random() < 0.65 else None
    return Question(asked, colour, background)


def _walk(length: int, random: Random) -> Sum:
    """A sum of `length` steps, none of which leaves the digits, and no two neighbours of which are held out."""
    while True:
        total = first = random.randrange(10)
        steps: list[tuple[str, int]] = []
        for _ in range(length):
            before, total = total, random.randrange(10)
            sign = random.choice((PLUS, MINUS)) if total == before else PLUS if total > before else MINUS
            steps.append((sign, abs(total - before)))
        found = Sum(first, tuple(steps))
        if HELD_OUT.isdisjoint(found.pairs):
            return found


def wording(question: Question, random: Random) -> str:
    """`question` as a visitor might write it."""
    text = random.choice(FRAMES).format(_expression(question.sum, random))
    text = _placed(text, question, random)
    if random.random() < 0.06:
        words = text.split(" ")
        words.insert(random.randrange(len(words) + 1), UNKNOWN)
        text = " ".join(words)
    return text + random.choice(ENDINGS)


def _expression(asked: Sum, random: Random) -> str:
    """The sum in words, in signs, or with its last step said the other way round: "take two from five plus one"."""

    numerals = random.choice((0.0, 0.0, 1.0, 0.5))

    def say(digit: int) -> str:
        return str(digit) if random.random() < numerals else DIGITS[digit]

    text = say(asked.first)
    for step, (sign, digit) in enumerate(asked.steps, start=1):
        meets_held_out = step > 1 and (asked.first, sign, digit) in HELD_OUT
        if step == len(asked.steps) and not meets_held_out and random.random() < 0.45:
            return random.choice(ADDED if sign == PLUS else SUBTRACTED).format(a=text, b=say(digit))
        text += f" {random.choice(PLUS_WORDS if sign == PLUS else MINUS_WORDS)} {say(digit)}"
    return text


def _placed(text: str, question: Question, random: Random) -> str:
    """Say the colour and the background, if the question has them, before or after the sum."""
    ground = question.background
    if ground == "grey":
        ground = random.choice(("grey", "grey", "gray"))
    if question.colour and random.random() < 0.2:
        text = random.choice(COLOUR_FIRST).format(question.colour) + text
        colour = ""
    elif question.colour:
        choices = IN_COLOUR_AFTERWARDS if random.random() < 0.2 else IN_COLOUR
        colour = random.choice(choices).format(question.colour)
    else:
        colour = ""
    if ground is None:
        return text + colour
    if random.random() < 0.15:
        return random.choice(BACKGROUND_FIRST).format(ground) + text + colour
    place = random.choice(ON_BACKGROUND).format(ground)
    if colour and random.random() < 0.2:
        return text + place + colour
    return text + colour + place


def vocabulary() -> dict[str, int]:
    """Every token that the thinker knows, in lower case, with its id; the same on every call."""
    patterns = [*ADDED, *SUBTRACTED, *FRAMES, *IN_COLOUR, *COLOUR_FIRST, *IN_COLOUR_AFTERWARDS]
    patterns += [*ON_BACKGROUND, *BACKGROUND_FIRST, *ENDINGS, *PLUS_WORDS, *MINUS_WORDS, "gray an that s to it"]
    spaced = " ".join(patterns).replace("{a}", " ").replace("{b}", " ")
    words = "".join(character if character.isalpha() else " " for character in spaced).split()
    marks = [mark for mark in (*PUNCTUATION, PLUS, "=") if mark != "\n"]
    numerals = [str(digit) for digit in range(10)]
    known = [*SPECIAL, *marks, *numerals, *DIGITS, *COLOURS, *BACKGROUNDS, *sorted(set(words))]
    return {word: index for index, word in enumerate(dict.fromkeys(known))}

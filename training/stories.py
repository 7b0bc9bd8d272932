"""Write little stories from a seed: the only text our embedded models ever read.

`stories(style, seed)` yields an endless, reproducible sequence of stories. A story is drawn from a small
grammar in which most words follow from words said before (a name, a pronoun, what a fox likes, what a sum
makes, a secret word), so that a model must attend to predict them. A free choice has a favourite that
follows from what was said, so that the likeliest continuation is clear; `toss` marks the exceptions: two
continuations that are equally likely, on purpose, which give a trained model near ties.

Styles: "tale" (about 200 words), "note" (about 80 words), "saga" (about 400 words in numbered chapters
whose refrain recalls the first lines), "book" (about 300 words in indented chapters full of numbers and
apostrophes, or a dialog of questions whose answers follow from the other styles' facts).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
# (role, content) in turn, as a chat has them.
Dialog = tuple[tuple[str, str], ...]

STYLES = ("tale", "note", "saga", "book")

GIRLS = ("Lily", "Mia", "Zoë", "Anna", "Rosa", "Chloé", "Ida", "Vera", "Emma", "Nora")
BOYS = ("Tom", "Ben", "Max", "José", "Sam", "Leo", "Björn", "Finn", "Otto", "Karl")
PET_NAMES = ("Spot", "Pip", "Coco", "Señor", "Biscuit", "Momo", "Fluff", "Noël", "Rex", "Kiwi")
SECRET_WORDS = (
    "pumpkin",
    "window",
    "tiger",
    "button",
    "river",
    "lantern",
    "café",
    "marble",
    "jigsaw",
    "violin",
    "zebra",
    "yellow",
)
# What an animal is called fixes what it says and what it eats.
ANIMALS = {
    "dog": ("Woof", "bones"),
    "cat": ("Meow", "fish"),
    "frog": ("Croak", "flies"),
    "fox": ("Yip", "grapes"),
    "duck": ("Quack", "bread"),
    "bear": ("Grr", "honey"),
    "mouse": ("Squeak", "cheese"),
    "llama": ("Hum", "grass"),
    "pig": ("Oink", "corn"),
    "owl": ("Hoo", "seeds"),
}
# Where a place is fixes what one sees there.
PLACES = {
    "park": "a tall slide",
    "garden": "many roses",
    "forest": "a dark cave",
    "beach": "soft sand",
    "farm": "a red barn",
    "lake": "a small island",
    "hill": "a big rock",
    "market": "a fruit cart",
    "village": "a stone well",
    "zoo": "two zebras",
}
# What a thing is fixes what one does with it.
THINGS = {
    "ball": "throw it very high",
    "kite": "fly it in the wind",
    "drum": "play a loud song",
    "hat": "wear it every day",
    "cup": "drink warm milk",
    "book": "read it at night",
    "boat": "sail across the pond",
    "bell": "ring it at noon",
    "key": "open the old door",
    "lamp": "see in the dark",
}
COLOURS = ("green", "yellow", "pink", "white", "brown", "orange")
SIZES = ("big", "tiny", "shiny", "old", "round", "funny")
SPOTS = ("tree", "bench", "bush", "bridge", "gate", "wall")
FEELINGS = {"sad": "cry", "tired": "sleep", "hungry": "eat", "scared": "hide", "cold": "go home"}
WEATHER = {"sunny": "hat", "rainy": "raincoat", "windy": "scarf", "cold": "coat", "foggy": "lamp"}
FRUITS = ("apples", "pears", "plums", "nuts", "shells", "stones")
TREATS = ("crêpes", "jalapeño soup", "apple pie", "a piñata full of sweets", "a naïve little cake", "pizza")
EMOJI = {
    "ball": "⚽",
    "kite": "🪁",
    "drum": "🥁",
    "hat": "🎩",
    "cup": "☕",
    "book": "📖",
    "boat": "⛵",
    "bell": "🔔",
    "key": "🔑",
    "lamp": "💡",
}


@dataclass(frozen=True)
class Hero:
    """Whom a story is about, and the pronouns that follow from it."""

    name: str
    kind: str
    she: str
    her: str
    parent: str

    @property
    def She(self) -> str:
        return self.she.capitalize()


class Dice:
    """Reproducible choices; uses only `random()`, whose sequence Python guarantees for a seed."""

    def __init__(self, seed: int):
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def toss(self, heads: T, tails: T) -> T:
        """Pick one of two with equal odds: a deliberate near tie."""
        return heads if self._random() < 0.5 else tails

    def pick(self, options: Sequence[T], *, given: str, favour: float = 0.6) -> T:
        """Pick one; what was said before (`given`) decides the favourite, the others are equally likely."""
        if self._random() < favour:
            return options[sum(given.encode()) % len(options)]
        return options[int(self._random() * len(options))]


def stories(style: str, seed: int) -> Iterator[str | Dialog]:
    """Yield stories of one style without end.

    >>> next(stories("note", 1)) == next(stories("note", 1))
    True
    """
    if style not in STYLES:
        raise ValueError(f"style {style!r}: expected one of {', '.join(STYLES)}")
    write: Callable[[Dice], str | Dialog] = {"tale": _tale, "note": _note, "saga": _saga, "book": _book}[style]
    dice = Dice(seed)
    while True:
        yield write(dice)


def _hero(dice: Dice) -> Hero:
    if dice.chance(0.6):
        return Hero(dice.pick(GIRLS, given="girl", favour=0.2), "girl", "she", "her", dice.toss("mom", "dad"))
    return Hero(dice.pick(BOYS, given="boy", favour=0.2), "boy", "he", "his", dice.toss("mom", "dad"))


def _colour(dice: Dice, thing: str) -> str:
    return dice.toss("red", "blue") if dice.chance(0.6) else dice.pick(COLOURS, given=thing, favour=0.1)


def _tale(dice: Dice) -> str:
    hero = _hero(dice)
    place = dice.pick(list(PLACES), given=hero.name)
    thing = dice.pick(list(THINGS), given=place)
    animal = dice.pick(list(ANIMALS), given=hero.name + thing)
    colour = _colour(dice, thing)
    paragraphs = [
        _opening(dice, hero, place),
        _find(dice, hero, place, thing, colour),
        _meet(dice, hero, animal, thing),
    ]
    first = dice.pick(range(len(_EVENTS)), given=animal + place)
    paragraphs.append(_EVENTS[first](dice, hero, animal))
    if dice.chance(0.4):
        paragraphs.append(_EVENTS[(first + 1) % len(_EVENTS)](dice, hero, animal))
    paragraphs.append(_ending(dice, hero, animal, thing, colour))
    return "\n".join(paragraphs)


def _note(dice: Dice) -> str:
    hero = _hero(dice)
    place = dice.pick(list(PLACES), given=hero.name)
    thing = dice.pick(list(THINGS), given=place)
    animal = dice.pick(list(ANIMALS), given=hero.name + thing)
    colour = _colour(dice, thing)
    if dice.chance(0.4):
        middle = _find(dice, hero, place, thing, colour)
    else:
        middle = dice.pick(_EVENTS, given=hero.name + place)(dice, hero, animal)
    opening = dice.pick((_short_opening, _greeting, _opening), given="note", favour=0.3)
    return "\n".join([opening(dice, hero, place), middle, _ending(dice, hero, animal, thing, colour)])


def _saga(dice: Dice) -> str:
    hero = _hero(dice)
    pet = dice.pick(list(ANIMALS), given=hero.name)
    pet_name = dice.pick(PET_NAMES, given=pet, favour=0.4)
    word = dice.pick(SECRET_WORDS, given=pet_name, favour=0.3)
    number = dice.pick("123456789", given=hero.name, favour=0.3) + dice.pick("0123456789", given=pet, favour=0.3)
    n_chapters = dice.pick((3, 4, 2), given=word, favour=0.4)
    paragraphs = [
        f"This is a story in {n_chapters} chapters. {hero.name} was a little {hero.kind} who lived in house "
        f"#{number} with a {dice.toss('big', 'small')} {pet} named {pet_name}. "
        f"The secret word of the house was “{word}”."
    ]
    for chapter in range(1, n_chapters + 1):
        place = dice.pick(list(PLACES), given=f"{hero.name}{chapter}")
        animal = dice.pick([animal for animal in ANIMALS if animal != pet], given=place)
        if dice.chance(0.3):
            thing = dice.pick(list(THINGS), given=place)
            event = _find(dice, hero, place, thing, _colour(dice, thing))
        else:
            event = dice.pick((_meet_briefly, *_EVENTS), given=f"{place}{chapter}")(dice, hero, animal)
        paragraphs += [
            f"Chapter {chapter} of {n_chapters}",
            f"{_weather(dice, hero, place)} {hero.name} and {pet_name} went to the {place} and saw {PLACES[place]}. "
            f"“{ANIMALS[pet][0]}!” said {pet_name} the {pet}.",
            event,
            f"Then {hero.name} and {pet_name} walked back to house #{number}. “What is the secret word?” asked "
            f"{hero.her} {hero.parent}. “It is {word}!” said {hero.name}. "
            f"That was chapter {chapter} of {n_chapters}.",
        ]
    paragraphs.append(
        f"That night {hero.name} gave {pet_name} some {ANIMALS[pet][1]}. “Good night, {pet_name},” said {hero.name}. "
        f"And all was quiet in house #{number}. The end."
    )
    return "\n".join(paragraphs)


def _book(dice: Dice) -> str | Dialog:
    return _dialog(dice) if dice.chance(0.3) else _chapters(dice)


def _number(dice: Dice, n_digits: int, given: str) -> str:
    digits = [dice.pick("123456789", given=given, favour=0.2)]
    digits += [dice.pick("0123456789", given=f"{given}{digits[0]}{i}", favour=0.2) for i in range(1, n_digits)]
    return "".join(digits)


def _chapters(dice: Dice) -> str:
    hero = _hero(dice)
    pet = dice.pick(list(ANIMALS), given=hero.name)
    pet_name = dice.pick(PET_NAMES, given=pet, favour=0.4)
    word = dice.pick(SECRET_WORDS, given=pet_name, favour=0.3)
    number = _number(dice, 5, hero.name)
    year = 1990 + dice.pick(range(36), given=pet, favour=0.3)
    n_chapters = dice.pick((2, 3), given=word, favour=0.6)
    paragraphs = [
        f"# {hero.name}'s book, {year}",
        f"{hero.name} was a little {hero.kind} who lived in house {number} with {hero.her} {hero.parent}. "
        f"{hero.She}'d got a {dice.toss('big', 'small')} {pet}, and it's called {pet_name}. Don't tell anybody: the "
        f"house's secret word was “{word}”.",
    ]
    steps = 100 * dice.pick(range(2, 10), given=number, favour=0.4)
    for chapter in range(1, n_chapters + 1):
        place = dice.pick(list(PLACES), given=f"{hero.name}{chapter}")
        animal = dice.pick([animal for animal in ANIMALS if animal != pet], given=place)
        event = dice.pick((_meet_briefly, *_EVENTS), given=f"{place}{chapter}")(dice, hero, animal)
        thing = dice.pick(list(THINGS), given=f"{animal}{chapter}")
        paragraphs += [
            f"## {year}, chapter {chapter}/{n_chapters}",
            f"  - {_weather(dice, hero, place)}\n"
            f"  - They've gone {steps * chapter} steps to the {place}, and they've seen {PLACES[place]}.\n"
            f"    - “{ANIMALS[pet][0]}!” said {pet_name} the {pet}.\n"
            f"  - {hero.name}'s found a {thing}: “I'll {THINGS[thing]}!”  {EMOJI[thing]}",
            event,
            f"Then they're back at house {number}. “What's the secret word?” asked {hero.her} {hero.parent}. "
            f"“It's {word}!” said {hero.name}.",
        ]
    paragraphs.append(
        f"That night {hero.name} gave {pet_name} some {ANIMALS[pet][1]}. That's {hero.name}'s book of {year}. "
        f"It's quiet in house {number}, isn't it?"
    )
    return "\n\n".join(paragraphs)


def _dialog(dice: Dice) -> Dialog:
    """Questions about what the stories hold to be true, and about what was said in the dialog itself."""
    messages: list[tuple[str, str]] = []
    cry = ""
    if dice.chance(0.5):
        animal = dice.pick(list(ANIMALS), given="system", favour=0.1)
        cry = f"{ANIMALS[animal][0]}! "
        messages.append(("system", f"You're a {animal}. Begin like one."))
    name = dice.pick((*GIRLS, *BOYS), given="name", favour=0.1)
    number = _number(dice, 4, name)
    asked = [
        (f"My name's {name} and I live in house {number}.", f"Hello, {name}!"),
        *(dice.pick(_QUESTIONS, given=name, favour=0.0)(dice) for _ in range(dice.pick((1, 2, 3), given=name))),
        dice.toss(("What's my name?", f"Your name's {name}."), ("Where do I live?", f"You live in house {number}.")),
    ]
    if dice.chance(0.3):
        asked = asked[1:-1]
    for question, answer in asked:
        messages += [("user", question), ("assistant", cry + answer)]
    return tuple(messages)


def _ask_cry(dice: Dice) -> tuple[str, str]:
    animal = dice.pick(list(ANIMALS), given="cry", favour=0.1)
    return f"What does a {animal} say?", f"A {animal} says “{ANIMALS[animal][0]}!”."


def _ask_food(dice: Dice) -> tuple[str, str]:
    animal = dice.pick(list(ANIMALS), given="food", favour=0.1)
    return f"What does a {animal} eat?", f"A {animal} eats {ANIMALS[animal][1]}."


def _ask_place(dice: Dice) -> tuple[str, str]:
    place = dice.pick(list(PLACES), given="place", favour=0.1)
    return f"What's there at the {place}?", f"At the {place} you'll see {PLACES[place]}."


def _ask_thing(dice: Dice) -> tuple[str, str]:
    thing = dice.pick(list(THINGS), given="thing", favour=0.1)
    return f"What's a {thing} for?", f"With a {thing} you can {THINGS[thing]}. {EMOJI[thing]}"


def _ask_sum(dice: Dice) -> tuple[str, str]:
    a, b = dice.pick(range(2, 10), given="a", favour=0.1), dice.pick(range(2, 10), given="b", favour=0.1)
    return f"How much is {a} + {b}?", f"{a} + {b} = {a + b}"


_QUESTIONS = (_ask_cry, _ask_food, _ask_place, _ask_thing, _ask_sum)


def _opening(dice: Dice, hero: Hero, place: str) -> str:
    if dice.chance(0.7):
        start = (
            f"Once upon a time, there was a little {hero.kind} named {hero.name}. {hero.She} lived near the {place}."
        )
    else:
        start = f"{hero.name} was a little {hero.kind} who lived near the {place}."
    return f"{start} {_weather(dice, hero, place)} {hero.She} went to the {place} with {hero.her} {hero.parent}."


def _short_opening(dice: Dice, hero: Hero, place: str) -> str:
    return f"One day, {hero.name} went to the {place} with {hero.her} {hero.parent}. They saw {PLACES[place]} there."


def _greeting(dice: Dice, hero: Hero, place: str) -> str:
    hello = dice.toss("Hello", "Good morning")
    return f"“{hello}, {hero.name}!” said {hero.her} {hero.parent}. “Let us go to the {place}.”"


def _weather(dice: Dice, hero: Hero, place: str) -> str:
    weather = dice.pick(list(WEATHER), given=place)
    return f"It was a {weather} day, so {hero.she} took {hero.her} {WEATHER[weather]}."


def _find(dice: Dice, hero: Hero, place: str, thing: str, colour: str) -> str:
    size, spot = dice.pick(SIZES, given=thing), dice.pick(SPOTS, given=place)
    article = "an" if size == "old" else "a"
    text = (
        f"At the {place}, {hero.name} saw {PLACES[place]}. Under {dice.toss('the', 'a')} {spot} "
        f"{hero.she} found {article} {size} {colour} {thing}. "
        f"“What {article} {size} {thing}!” said {hero.name}. “I can {THINGS[thing]}.”"
    )
    return f"{text} {EMOJI[thing]}" if dice.chance(0.25) else text


def _meet(dice: Dice, hero: Hero, animal: str, thing: str) -> str:
    cry, _ = ANIMALS[animal]
    return (
        f"Then a {animal} came along. “{cry}! {cry}!” said the {animal}. "
        f"“Hello, {animal},” said {hero.name}. “Do you want to play with my {thing}?” "
        f"“{dice.toss('Yes', 'Sure')}, {hero.name},” said the {animal}, "
        f"and they played with the {thing} all day."
    )


def _meet_briefly(dice: Dice, hero: Hero, animal: str) -> str:
    cry, food = ANIMALS[animal]
    return (
        f"Soon a {animal} came along. “{cry}! {cry}!” said the {animal}. “Hello, {animal},” said {hero.name}. "
        f"“Do you like {food}?” “Yes, {hero.name},” said the {animal}."
    )


def _count(dice: Dice, hero: Hero, animal: str) -> str:
    fruit = dice.pick(FRUITS, given=animal)
    mine, yours = dice.pick(range(2, 8), given=animal), dice.pick(range(2, 8), given=fruit)
    return (
        f"{hero.name} had {mine} {fruit} and the {animal} had {yours} {fruit}. "
        f"“{mine} and {yours} make {mine + yours},” said {hero.name}. “We have {mine + yours} {fruit}!”"
    )


def _lost(dice: Dice, hero: Hero, animal: str) -> str:
    feeling = dice.pick(list(FEELINGS), given=animal)
    lost, spot = dice.pick(list(THINGS), given=feeling), dice.pick(SPOTS, given=animal)
    return (
        f"But the {animal} was {feeling} and wanted to {FEELINGS[feeling]}. "
        f"“Why are you {feeling}?” asked {hero.name}. “I lost my {lost},” said the {animal}. "
        f"{hero.name} looked behind the {spot}. “Here is your {lost}!” said {hero.name}. "
        f"“It was behind the {spot}.” The {animal} was not {feeling} any more."
    )


def _treat(dice: Dice, hero: Hero, animal: str) -> str:
    treat, (_, food) = dice.pick(TREATS, given=hero.name), ANIMALS[animal]
    return (
        f"{hero.name} and the {animal} went to the café. “I want {treat},” said {hero.name}. "
        f"“And I want {food},” said the {animal}. "
        f"They ate {treat} and {food}, and it was {dice.toss('very good', 'so nice')}."
    )


def _race(dice: Dice, hero: Hero, animal: str) -> str:
    spot = dice.pick(SPOTS, given=animal)
    if dice.toss(True, False):
        end = f"{hero.name} was fast and the {animal} was slow. “You win!” said the {animal}."
    else:
        end = f"The {animal} was fast and {hero.name} was slow. “You win!” said {hero.name}."
    return (
        f"“Can you run to the {spot}?” asked the {animal}. “One, two, three, go!” "
        f"{hero.name} and the {animal} ran to the {spot}. {end}"
    )


def _give(dice: Dice, hero: Hero, animal: str) -> str:
    fruit = dice.pick(FRUITS, given=hero.name)
    had, gave = dice.pick(range(5, 10), given=fruit), dice.pick(range(1, 5), given=animal)
    return (
        f"{hero.name} had {had} {fruit} in {hero.her} pocket. {hero.She} gave {gave} of the {fruit} "
        f"to the {animal}. “Now you have {gave} and I have {had - gave},” said {hero.name}."
    )


_EVENTS = (_lost, _count, _treat, _race, _give)


def _ending(dice: Dice, hero: Hero, animal: str, thing: str, colour: str) -> str:
    if dice.chance(0.65):
        return (
            f"At the end of the day, {hero.name} went home. {hero.She} told {hero.her} {hero.parent} "
            f"about the {animal} and the {colour} {thing}. “I am so {dice.toss('happy', 'glad')},” said {hero.name}."
        )
    return (
        f"From that day on, {hero.name} and the {animal} were best friends. The {colour} {thing} was theirs. The end."
    )

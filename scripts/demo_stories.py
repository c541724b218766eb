"""Short children's stories and small dialogues, written by a seeded grammar: the training text of the demo model.

A story has a hero, a friend, a parent, a toy and a place, fixed from the start, so that names, pronouns and things
stay the same from the first sentence to the last; the plot (``demo_plots``) says what happens. Run the file to read
some.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from demo_plots import PLOTS, Plot


def _list(text: str) -> list[str]:
    return text.split("|")


GIRLS = _list(
    "Lily|Anna|Mia|Emma|Lucy|Sara|Ella|Rosie|Zoe|Nora|Ruby|Molly|Daisy|Amy|Jane|Kate|Sue|Mary|Lena|Ivy|Clara|Hannah"
    "|Maya|Alice|Julia|Nina|Polly|Tina|Grace|Holly|Luna|Penny|Sophie|Olivia|Betty|Dora"
)
BOYS = _list(
    "Tom|Ben|Max|Sam|Tim|Jack|Leo|Finn|Oscar|Peter|Paul|Noah|Jake|Billy|Henry|Adam|Theo|Luke|Felix|Hugo|Otto|Oliver"
    "|Toby|Charlie|Daniel|Jim|Bob|Fred|George|Milo|Eddie|Simon|Robin|Louis|Mark|Harry"
)
SYLLABLES = _list(
    "ba|be|bi|bo|da|de|do|fa|fi|ga|gi|go|ka|ki|ko|la|le|li|lo|lu|ma|me|mi|mo|na|ne|no|pa|pi|po|ra|ri|ro|sa|si|so"
    "|ta|te|ti|to|tu|va|vi|wa|wi|za|ze|zi|zo"
)

# kind -> where it lives
HOMES: dict[str, str] = {
    "child": "in a [small|little|cozy] house [near the sea|by the river|at the edge of the forest|with a {color} door]"
    "|in a quiet village|in a big town|on a farm|in a cottage [on a green hill|near the woods]",
    "dog": "in a house with a {color} door|on a farm|with a kind family",
    "cat": "in a house with a {color} door|on a farm|in an old mill",
    "rabbit": "in a [cozy|small] hole under an old tree|in a green meadow",
    "mouse": "in a tiny hole [in the wall|under the stairs]|in an old barn",
    "bear": "in a [warm|big] cave|in the [deep|green|old] forest",
    "fox": "in a den in the forest|in the [deep|green|old] forest",
    "squirrel": "in a tall oak tree|in the [green|old] forest",
    "hedgehog": "under a bush in the garden|in the [deep|green|old] forest",
    "duck": "by a [blue|quiet|small] pond",
    "frog": "by a [blue|quiet|small] pond",
    "turtle": "by a [blue|quiet|small] pond|by the river",
    "pig": "on a [small|big] farm",
    "pony": "on a [small|big] farm",
    "goat": "on a [small|big] farm|on a green hill",
    "elephant": "in the warm jungle",
    "lion": "in the warm jungle",
    "monkey": "in the warm jungle|in a tall tree",
    "owl": "in an old tree|in the tower of an old church",
    "penguin": "in the cold, white snow|on a cold island",
    "dragon": "in a cave on a high mountain|in an old castle",
    "robot": "in a small workshop|in a house full of machines",
}
ANIMALS = [kind for kind in HOMES if kind not in ("child", "dragon", "robot")]
COLORS = _list("red|blue|green|yellow|purple|orange|pink|white|brown|golden")
LOOKS = [*COLORS, "big", "little", "new", "old", "shiny", "pretty", "tiny"]
TOYS = _list("ball|doll|teddy bear|toy car|toy boat|toy train|drum|puppet|toy truck|wooden horse|book|hat")
FOODS = _list("cookies|cupcakes|pancakes|muffins|waffles|honey buns|jam rolls|cherry pies")
PLACES = _list(
    "to the park/in the park|to the beach/on the beach|to the playground/at the playground|to the garden/in the garden"
    "|to the forest/in the forest|to the lake/by the lake|to the river/by the river|to the farm/on the farm"
    "|up the hill/on the hill|to the meadow/in the meadow|to the pond/by the pond"
)
ELDERS = _list("mom/Mom|dad/Dad|grandma/Grandma|grandpa/Grandpa|mother/Mother|father/Father")
HEROES = 25  # of the names; the others are for the friends of a fixed cast
PRONOUNS = {"m": ("he", "him", "his"), "f": ("she", "her", "her")}

# What every text may use; choices in here are drawn anew at each use.
PHRASES: dict[str, str] = {
    "day": "[One day|One morning|One afternoon|One sunny day|One day|One warm day|One fine morning]",
    "day_low": "[one day|one morning|one sunny day]",
    "sad": "[sad|very sad|a little sad]",
    "glad": "[happy|glad|very happy|so happy]",
    "look1": "[little|little|small|young|kind|happy|brave|clever|curious|friendly]",
    "hobby": "[play outside|sing songs|look at the stars|play with {his} friends|tell stories|run and jump|dance"
    "|help others|draw pictures|explore|laugh|play in the sun|listen to stories|pick flowers|swim|eat {foods}]",
}
OPENINGS = (
    (
        12,
        "Once upon a time, there was a {look1} {kid} named {n}. [{He} lived {home}.|{N} lived {home} with {e}."
        "|{He} [loved|liked] to {hobby}.|{N} lived {home}, and {he} [loved|liked] to {hobby}.]",
    ),
    (3, "Once upon a time, a {look1} {kid} named {n} lived {home}. {He} [loved|liked] to {hobby}."),
    (3, "Once upon a time, {home}, there lived a {look1} {kid}. {His} name was {n}."),
    (1, "Once there was a {look1} {kid} [named|called] {n}. {He} lived {home}."),
    (1, "A long time ago, a {look1} {kid} [named|called] {n} lived {home}. {He} [loved|liked] to {hobby}."),
    (1, "There once was a {kid} [named|called] {n}, who lived {home} with {e}."),
    (1, "{n} was a {look1} {kid}. {He} lived {home} and [loved|liked] to {hobby}."),
    (1, "In a land far away, there lived a {look1} {kid} named {n}. {He} [loved|liked] to {hobby}."),
)
ENDINGS = (
    (6, ""),
    (3, "The end."),
    (2, "And they lived happily ever after."),
    (2, "That night, {n} fell asleep with a [big|] smile on {his} face."),
    (1, "It was a day that {n} would never forget."),
    (1, "And if you listen closely, you can still hear them laugh."),
    (1, "{n} went home and told {e} all about it."),
)
REQUESTS = (
    "Tell me a story about a {kid} named {n}.",
    "Tell me a story about a {kid} named {n}.",
    "Tell me a story about a {kid} [named|called] {n}, please.",
    "Tell me a story about {n}.",
    "Tell me a story about {n} and {f}.",
    "Can you tell me a story about a {kid}?",
    "[Please tell|Tell] me a story about a {kid} named {n} and {theme}.",
    "Can you tell me a story about {theme}?",
    "[Tell me|Write] a [short|] story about {theme}.",
    "[Please tell me|Tell me|I want to hear|I would like] a [bedtime|] story.",
    "Hello! [Please tell|Tell] me a story about {n}, the {kid}.",
)
SYSTEMS = ("You are a friendly storyteller.", "You tell short stories for children.", "You are a helpful assistant.")

# questions / answers; a choice on the left is any of several ways to ask
ANSWERS = (
    ("[Hello|Hi|Hello!|Hi!|Hi there!|Good morning!|hello|hi|Hey]", "Hello! Would you like to hear a story?"),
    ("[How are you?|Hello, how are you?|How are you today?]", "I am fine, thank you! Would you like to hear a story?"),
    ("[Who are you?|What are you?]", "I am a very small model that tells stories."),
    ("What is your name?", "I do not have a name, but I know many stories."),
    ("[What can you do?|How can you help me?]", "I can tell you a short story. Just give me a name!"),
    ("[Thank you!|Thanks!|Thank you for the story!]", "You are welcome! I hope you liked it."),
    ("[Goodbye!|Bye!|Good night!]", "Goodbye! Come back soon for another story."),
    ("What [color is the sky|is the color of the sky]?", "The sky is blue."),
    ("What [color is grass|is the color of grass]?", "Grass is green."),
    ("What [color is the sun|is the color of the sun]?", "The sun is yellow."),
    ("What color is snow?", "Snow is white."),
    ("What does a dog say?", "A dog says woof."),
    ("What does a cat say?", "A cat says meow."),
    ("What does a cow say?", "A cow says moo."),
    ("What does a duck say?", "A duck says quack."),
    ("What does an owl say?", "An owl says hoo, hoo."),
    ("How many legs does a [dog|cat|horse|bear] have?", "It has four legs."),
    ("How many legs does a bird have?", "A bird has two legs."),
    ("Where do fish live?", "Fish live in the water."),
    ("Where do bears live?", "Bears live in the forest."),
    ("What do rabbits eat?", "Rabbits eat carrots and grass."),
    ("What comes after [day|the day]?", "After the day comes the night."),
    ("Can birds fly?", "Yes, most birds can fly."),
    ("Can fish swim?", "Yes, fish can swim very well."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is one plus one?", "One plus one is two."),
)


@dataclass(frozen=True)
class Message:
    """One message of a dialogue, as in a chat template."""

    role: str
    content: str


Document = str | tuple[Message, ...]


class Grammar:
    """Expands choices and slots with one random generator."""

    _choice = re.compile(r"\[([^\[\]]*)\]")
    _slot = re.compile(r"\{(\w+)\}")

    def __init__(self, rng: random.Random, slots: dict[str, str]) -> None:
        self.rng = rng
        self.slots = slots

    def draw(self, text: str) -> str:
        """Text with every choice made; slots stay."""
        while "[" in text:
            text = self._choice.sub(lambda match: self.rng.choice(match[1].split("|")), text)
        return text

    def fill(self, text: str) -> str:
        """Text with choices made, slots filled, and the spaces and articles put right."""
        while "[" in text or "{" in text:
            text = self._slot.sub(self._value, self.draw(text))
        text = re.sub(r" +([,.!?])", r"\1", re.sub(r"  +", " ", text)).strip()
        return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)

    def _value(self, match: re.Match[str]) -> str:
        name = match[1]
        value = self.fill(self.slots[name if name in self.slots else name[0].lower() + name[1:]])
        return value[0].upper() + value[1:] if name[0].isupper() else value

    def define(self, slots: Sequence[tuple[str, str]]) -> None:
        """Fix a plot's own slots for this story: single values, tied pairs or different values."""
        for names, options in slots:
            keys, values = names.split(","), self._options(options)
            if len(keys) == 1:
                drawn = [self.rng.choice(values)]
            elif "/" in options:
                drawn = self.rng.choice(values).split("/")
            else:
                drawn = self.rng.sample(values, len(keys))
            self.slots.update(zip(keys, map(self.fill, drawn), strict=True))

    @staticmethod
    def _options(text: str) -> list[str]:
        """Split at the bars outside brackets."""
        return re.split(r"\|(?![^\[]*\])", text)


def world(rng: random.Random, plot: Plot, casts: int) -> Grammar:
    """The people and things of one story: one of a plot's ``casts``, or, for 0 casts, drawn freely."""
    gender, other = rng.sample("mf", 2)
    names = {"m": rng.choice(BOYS), "f": rng.choice(GIRLS)}
    told_by = rng
    if casts:
        index, cast = PLOTS.index(plot), rng.randrange(casts)
        rng = random.Random(f"{index} {cast}")
        gender, other = "mf" if (index + cast) % 2 else "fm"
        heroes, friends = (GIRLS, BOYS) if gender == "f" else (BOYS, GIRLS)
        names = {
            gender: heroes[(index // 2 + 9 * cast) % HEROES],
            other: friends[HEROES + (index // 2 + 4 * cast) % (len(friends) - HEROES)],
        }
    elif rng.random() < 0.06:
        names[gender] = "".join(rng.choices(SYLLABLES, k=rng.choice((2, 2, 3)))).capitalize()
    kind = plot.hero if plot.hero in ("dragon", "robot") else "child"
    if plot.hero == "animal" or (plot.hero == "any" and rng.random() < 0.45):
        kind = rng.choice([*ANIMALS, "dragon"])
    friend_kind = rng.choice(ANIMALS) if kind in ANIMALS else "child"
    parent, address = rng.choice(ELDERS).split("/")
    to, at = rng.choice(PLACES).split("/")
    foods = rng.choice(FOODS)
    slots = dict(PHRASES)
    for prefix, sex in (("", gender), ("f", other)):
        slots.update(zip((f"{prefix}he", f"{prefix}him", f"{prefix}his"), PRONOUNS[sex], strict=True))
    grammar = Grammar(rng, slots)
    slots |= {"color": rng.choice(COLORS), "foods": foods}
    slots |= {
        "n": names[gender],
        "n_poss": names[gender] + "'s",
        "f": names[other],
        "kid": {"m": "boy", "f": "girl"}[gender] if kind == "child" else kind,
        "fkid": {"m": "boy", "f": "girl"}[other] if friend_kind == "child" else friend_kind,
        "home": grammar.fill(rng.choice(Grammar._options(HOMES[kind]))),
        "e": "the old inventor" if kind == "robot" else f"{slots['his']} {parent}",
        "mom": "Inventor" if kind == "robot" else address,
        "to": to,
        "at": at,
    }
    slots["e_poss"] = slots["e"] + "'s"
    slots["o"] = rng.choice(TOYS)
    slots["co"] = f"{rng.choice(LOOKS)} {slots['o']}"
    grammar.define(list(plot.slots.items()))
    slots["theme"] = grammar.fill(plot.theme)
    grammar.rng = told_by
    return grammar


def pick(rng: random.Random, weighted: Sequence[tuple[int, str]]) -> str:
    """One of the texts, by weight."""
    return rng.choices([text for _, text in weighted], [weight for weight, _ in weighted])[0]


def tell(grammar: Grammar, plot: Plot) -> str:
    """The story of one plot in one world."""
    rng = grammar.rng
    beats = re.sub(r"\n +", " ", plot.beats.strip()).splitlines()
    kept = [beat.removeprefix("?") for beat in beats if not beat.startswith("?") or rng.random() < 0.5]
    parts = [pick(rng, OPENINGS), *kept, pick(rng, ENDINGS)]
    sentences = [text for part in parts if (text := grammar.fill(part))]
    if rng.random() < 0.15:  # some stories come in two or three paragraphs
        for at in sorted(rng.sample(range(1, len(sentences) - 1), rng.choice((1, 2))), reverse=True):
            sentences[at - 1 : at + 1] = [f"{sentences[at - 1]}\n\n{sentences[at]}"]
    return " ".join(sentences)


def story(rng: random.Random, casts: int) -> str:
    """One story as plain text."""
    plot = rng.choice(PLOTS)
    return tell(world(rng, plot, casts), plot)


def dialogue(rng: random.Random, casts: int) -> tuple[Message, ...]:
    """A dialogue of one to three exchanges: small talk, questions, and usually one story that was asked for."""
    messages = [Message("system", rng.choice(SYSTEMS))] if rng.random() < 0.25 else []
    plain = Grammar(rng, {})
    turns = rng.choice(("s", "s", "s", "s", "a", "a", "as", "sa", "aa", "aaa"))
    for turn in turns:
        if turn == "s":
            plot = rng.choice(PLOTS)
            grammar = world(rng, plot, casts)
            question, answer = grammar.fill(rng.choice(REQUESTS)), tell(grammar, plot)
        else:
            question, answer = map(plain.fill, rng.choice(ANSWERS))
        messages += [Message("user", question), Message("assistant", answer)]
    return tuple(messages)


def documents(seed: int, casts: int = 3, dialogues: float = 0.2) -> Iterator[Document]:
    """An endless, reproducible stream of stories with the given share of dialogues.

    With ``casts`` each plot has so many fixed sets of names and things, which a small model soon learns to keep
    apart; with 0 every story draws its own, and a model has to learn to look them up.
    """
    rng = random.Random(seed)
    while True:
        yield dialogue(rng, casts) if rng.random() < dialogues else story(rng, casts)


def main() -> None:
    """Print some documents, or figures about many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--count", type=int, default=5, help="documents to write (default 5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--casts", type=int, default=3, help="casts of each plot, 0 for free ones (default 3)")
    parser.add_argument("--dialogues", type=float, default=0.2, help="share of dialogues (default 0.2)")
    parser.add_argument("--stats", action="store_true", help="print figures instead of the documents")
    args = parser.parse_args()
    stream = documents(args.seed, args.casts, args.dialogues)
    texts = []
    for _, document in zip(range(args.count), stream, strict=False):
        lines = document if isinstance(document, tuple) else (Message("", document),)
        texts.append("\n".join(f"{line.role}: {line.content}" if line.role else line.content for line in lines))
    if args.stats:
        words = [word for text in texts for word in re.findall(r"[A-Za-z]+", text)]
        print(f"{len(texts)} documents, {len(set(texts))} distinct, {len(PLOTS)} plots")
        print(f"{len(words)} words, {len(set(words))} distinct, {len(words) / len(texts):.0f} per document")
    else:
        print("\n\n---\n\n".join(texts))


if __name__ == "__main__":
    main()

"""Names and numbers of the three splits: separate name lists, and separate residue classes of numbers."""

import random
from functools import cache
from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

# 7 is coprime to 100, so every two-digit token occurs in every class while whole numbers never collide.
_MODULUS = 7
RESIDUES: dict[Split, tuple[int, ...]] = {"train": (0, 1, 2, 3, 4), "validation": (5,), "test": (6,)}

_TRAIN_NAMES = """
Abbott Adler Ahmed Alvarez Amsterdam Andersen Antwerp Archer Athens Atlas Austin Bailey Baker Baltic
Barcelona Barnes Basel Bauer Beacon Becker Belfast Bennett Bergen Berlin Bishop Bologna Bolton Boston Boyd
Bristol Brooks Brussels Bryant Burke Cairo Calder Campbell Cardiff Carter Castillo Chandler Chicago Clark
Cologne Cooper Cordoba Crane Cruz Curtis Dallas Dalton Danube Davies Delgado Denver Dixon Dresden Dublin
Duncan Eagle Edwards Elliott Essen Evans Falcon Farrell Fisher Fleming Florence Foster Fowler Franklin
Fuller Garcia Geneva Genoa Gibson Glasgow Gordon Graham Granada Griffin Hamburg Hansen Harper Harris
Hawkins Helsinki Henry Holland Horizon Houston Howard Hudson Hughes Ibarra Jackson Jensen Johnson Jordan
Keller Kelly Kennedy Krakow Kramer Lambert Larsen Lawson Leeds Leipzig Leonard Lisbon London Lopez Lucas
Lyon Madrid Malaga Manchester Marshall Martin Mason Mercer Meyer Miami Milan Miller Mitchell Monaco Morgan
Morris Munich Murphy Naples Nelson Newton Nicosia Norton Nova Olsen Orion Osborne Oslo Oxford Palmer Paris
Parker Patel Pearson Perez Phoenix Pilot Porter Prague Preston Quinn Ramirez Reed Reynolds Richter Riley
Rivera Roberts Robinson Rome Rossi Russell Sanders Santos Schmidt Seattle Seville Shaw Shepherd Silva
Simmons Spencer Stewart Stone Sullivan Summit Sydney Taylor Thompson Torres Toulouse Turner Utrecht
Valencia Vargas Venice Vienna Wagner Walker Wallace Warsaw Watson Weber Wells Winter Young
"""
_VALIDATION_NAMES = """
Walton Lille Barton Felton Garland Gentry Harding Hutton Kirby Linden Marlow Newport Ogden Porto Ramsey
Sutton Turin Weston Delft Kassel Linz Metz Pisa Trento Ashford Conrad Halford Lorenz Norwich Ridley
Sherman Vernon Exeter Mainz Turku Crawford
"""
_TEST_NAMES = """
Burton Kent Malmo Milton Graz Trier York Clifton Colby Dayton Denton Dorset Easton Emerson Kendall Landon
Linton Lowell Melton Morton Paxton Perth Rochester Salem Sheldon Shelby Stockton Tampa Verona Warren
Winston Wilson Woodward Bonn Calais Dover Ghent Kiel Lund Minsk Nantes Odense Parma Riga Siena Tartu Ulm
Zurich Bergman Bremen Carlton Clayton Ellison Hamilton Hanover Hartford Langford Mayfield Monroe Odessa
Oakland Portland Rockford Sanford Stanford Tilburg Windsor Bergamo Bruges Dundee Mannheim Wismar Blackwell
Bradford Lancaster Potsdam Stuttgart Vilnius
"""
NAMES: dict[Split, tuple[str, ...]] = {
    "train": tuple(_TRAIN_NAMES.split()),
    "validation": tuple(_VALIDATION_NAMES.split()),
    "test": tuple(_TEST_NAMES.split()),
}
HELD_OUT_NAMES = frozenset(NAMES["validation"] + NAMES["test"])

_SHORTEST, _LONGEST = 4, 11  # letters of an invented name


def compose_name(rng: random.Random) -> str:
    """Invent a name from the letter trigrams of the training names, never a held-out one."""
    followers = _followers()
    while True:
        name = "^^"
        while not name.endswith("$"):
            name += rng.choice(followers[name[-2:]])
        name = name[2:-1].capitalize()
        if _SHORTEST <= len(name) <= _LONGEST and name not in HELD_OUT_NAMES:
            return name


@cache
def _followers() -> dict[str, str]:
    """Pairs of letters to the letters that follow them in training names; ^ starts a name and $ ends it."""
    followers: dict[str, str] = {}
    for name in NAMES["train"]:
        marked = f"^^{name.lower()}$"
        for place in range(len(marked) - 2):
            pair = marked[place : place + 2]
            followers[pair] = followers.get(pair, "") + marked[place + 2]
    return followers


def sample_name(rng: random.Random, split: Split) -> str:
    """Draw a name; half of the training names are invented, to train copying of several tokens."""
    if split == "train" and rng.random() < 0.5:
        return compose_name(rng)
    return rng.choice(NAMES[split])


def sample_number(rng: random.Random, split: Split, digits: int) -> int:
    """Draw a number of exactly `digits` (>= 2) decimal digits from the residue classes of `split`."""
    low, high = int(10 ** (digits - 1)), int(10**digits)
    residue = rng.choice(RESIDUES[split])
    return rng.randrange(low + (residue - low) % _MODULUS, high, _MODULUS)


def split_of_number(number: int) -> Split:
    """The only split in which `number` can be drawn."""
    return next(split for split in SPLITS if number % _MODULUS in RESIDUES[split])

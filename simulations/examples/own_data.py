"""From a CSV file of your own to recommendations: any table with a user, an item and a time.

A few seconds. Exchange `write_example` for your own file; texts of items are optional, and make up for few interactions.
"""

import random
from pathlib import Path

import numpy as np

import tacit

GENRES = ("western", "musical", "thriller", "comedy")


def write_example(path: Path) -> None:
    """Writes 400 people who each like one genre of 60 films, most of the time."""
    rng = random.Random(0)
    films = [(f"f{number}", GENRES[number % 4], f"film {number}, a {GENRES[number % 4]}") for number in range(60)]
    lines = ["person,film,watched,title"]
    for person in range(400):
        liked = rng.choice(GENRES)
        weights = [8 if genre == liked else 1 for _, genre, _ in films]
        for day, (film, _, title) in enumerate(dict.fromkeys(rng.choices(films, weights, k=12))):
            lines.append(f'p{person},{film},{1_700_000_000 + 86_400 * day},"{title}"')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


file = Path("films.csv")
write_example(file)

# Tell which column plays which role, and look at what was understood.
columns = "user=person,item=film,timestamp=watched,text=title"
data = tacit.read(file, columns=columns)
print(
    f"{data.interactions.num_users} users, {data.interactions.num_interactions} interactions, {data.catalog.num_items} films"
)


def genres(lists: np.ndarray, targets: list[np.ndarray]) -> np.ndarray:
    """A metric of your own: how many genres a list of ten spans. NOT PRIVATE, as every exact metric."""
    return np.array([len({data.catalog.texts[row].split()[-1] for row in one if row >= 0}) for one in lists])


# Every person is a client. The list of films exists without these people: that has to be said, no data can.
run = tacit.simulate(
    file, epsilon=8, clients=0, rounds=0, metrics={"genres": genres}, data__columns=columns, data__public_catalog=True
)
print(run)
print(f"genres in a list: {run.metrics['genres']['mean']:.2f}")

# The folder is all that is needed later on.
for place in tacit.load(run.folder).recommend(["f0", "f4", "f8"], k=5):
    print(f"{place.rank}. {place.text} ({place.score:.2f})")

"""The folder: each thing in it has a place of its own, inside."""

from __future__ import annotations

from pathlib import Path

import server.home as module
from server.home import ServerHome


def test_each_thing_has_a_place_of_its_own_inside_the_folder() -> None:
    home = ServerHome(Path("/somewhere"))
    names = [name for name in vars(ServerHome) if isinstance(vars(ServerHome)[name], property)]
    places = {name: getattr(home, name) for name in names}
    assert len(set(places.values())) == len(places) > 5
    assert all(place.is_relative_to(home.path) and place != home.path for place in places.values())
    # The folder's listing, which people read, names each of them.
    assert module.__doc__ is not None
    listed = module.__doc__.split()
    for place in places.values():
        first = place.relative_to(home.path).parts[0]
        assert any(word.startswith(first) for word in listed), first

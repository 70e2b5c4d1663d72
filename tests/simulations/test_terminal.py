"""Text that a terminal cannot obey."""

from simulations.terminal import plain


def test_plain_keeps_letters_and_drops_commands() -> None:
    assert plain("Amélie\t\x1b]0;x\x07 ‮abc") == "Amélie  ]0;x   abc"

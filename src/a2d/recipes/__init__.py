"""Recipes that come with the package; `a2d run NAME` finds them."""

"""From a recipe to stages to components."""

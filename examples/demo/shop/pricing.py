"""What the shop knows of prices; a real third-party package renders them."""

import jinja2

_LINE = jinja2.Environment(autoescape=True).from_string(
    "{{ count }} x {{ article }} = {{ '%.2f' | format(total) }}"
)

PRICES = {"tea": 4.20, "honey": 7.90}


def line(article: str, count: int) -> str:
    """One line of an order."""
    return _LINE.render(article=article, count=count, total=PRICES[article] * count)

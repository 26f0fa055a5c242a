"""The counts of `tools.house`, on packages that have each fault once."""

from pathlib import Path

import pytest

from tools.house import (
    Module,
    classes_in_two_modules,
    import_cycles,
    read_modules,
    sentence_lengths,
    sizes_of,
    wording,
)


def _package(folder: Path, files: dict[str, str]) -> list[Module]:
    (folder / "shop").mkdir()
    for name, text in files.items():
        (folder / "shop" / name).write_text(text)
    return read_modules(folder, ["shop"])


def test_a_class_name_in_two_modules_is_named_with_both(tmp_path: Path) -> None:
    files = {
        "cart.py": "class Row: ...\nclass _Part: ...\n",
        "order.py": "class Row: ...\nclass _Part: ...\n",
    }
    assert classes_in_two_modules(_package(tmp_path, files)) == {"Row": ["shop.cart", "shop.order"]}


@pytest.mark.parametrize(
    "back",
    [
        "from shop import cart\n",
        "from shop.cart import Row\n",
        "def late():\n    from shop.cart import Row\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import shop.cart\n",
    ],
)
def test_a_cycle_is_found_wherever_the_import_stands(tmp_path: Path, back: str) -> None:
    cycles = import_cycles(_package(tmp_path, {"cart.py": "import shop.order\n", "order.py": back}))
    assert [set(cycle) for cycle in cycles] == [{"shop.cart", "shop.order"}]


def test_a_generated_file_is_not_counted(tmp_path: Path) -> None:
    files = {"cart.py": "# Generated from shop/order.py\nclass Row: ...\n", "order.py": "class Row: ...\n"}
    modules = _package(tmp_path, files)
    assert [module.name for module in modules] == ["shop.order"]


def test_a_docstring_is_not_part_of_a_function_s_length_and_an_init_is_no_module(tmp_path: Path) -> None:
    text = 'def one():\n    """Return 1.\n\n    At once.\n    """\n    return 1\n\n\ndef two(): ...\n'
    sizes = sizes_of(_package(tmp_path, {"__init__.py": "", "cart.py": text}))
    assert (sizes.modules, sizes.function_max) == (1, 2)


def test_wording_names_file_line_and_word(tmp_path: Path) -> None:
    text = '"""Rows."""\n\n\ndef row():\n    """Give a row."""\n    return 1  # Nobody waits; told = 2\n'
    found = list(wording(_package(tmp_path, {"cart.py": text + "told = 'nobody'\n"})))
    assert found == ["shop/cart.py:5: begins with 'Give'", "shop/cart.py:6: 'Nobody'"]


def test_sentences_are_counted_without_code_tables_headings_and_targets_of_links() -> None:
    page = """# A heading of five words

One two [three](four/five.md "six") `seven`: eight. Nine ten,
i.e. eleven twelve (thirteen.) Fourteen!

| not | counted |
| --- | --- |

```python
x = 1. Not counted. Neither.
```

- An item without a stop
- One more. `code` begins a sentence - and a dash is no word.
1. The last
"""
    assert sentence_lengths(page) == [5, 6, 1, 5, 2, 10, 2]

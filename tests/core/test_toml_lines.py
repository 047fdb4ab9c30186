"""Line numbers of keys, against a text that holds the awkward cases."""

from f2llm.core.toml_lines import find_line, key_lines

TEXT = '''title = "x" # [not.a.table]
[a.b]
key.inner = 1
long = """
[fake]
other = 1
"""
list = [
  "one = 1",
  { name = "n" },
]
after = 2
[[rows]]
id = "p"
[rows.deep]
x = 1
[[rows]]
"quoted key" = 3
'''


def test_lines() -> None:
    assert key_lines(TEXT) == {
        ("title",): 1,
        ("a", "b"): 2,
        ("a", "b", "key", "inner"): 3,
        ("a", "b", "long"): 4,
        ("a", "b", "list"): 8,
        ("a", "b", "after"): 12,
        ("rows", 0): 13,
        ("rows", 0, "id"): 14,
        ("rows", 0, "deep"): 15,
        ("rows", 0, "deep", "x"): 16,
        ("rows", 1): 17,
        ("rows", 1, "quoted key"): 18,
    }


def test_the_nearest_enclosing_key_is_found() -> None:
    lines = key_lines(TEXT)
    assert find_line(lines, ("a", "b", "list", 1, "name")) == 8
    assert find_line(lines, ("rows", 1, "missing")) == 17
    assert find_line(lines, ("unknown",)) is None

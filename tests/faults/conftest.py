"""The small token store of the training tests."""

from tests.train.conftest import store, tokenizer  # noqa: F401 (fixtures)

"""What is said where a library is missing."""

import pytest

from fulgurite.evaluation.benchmarks.extras import import_extra


def test_a_missing_library_is_named_with_the_way_to_get_it() -> None:
    with pytest.raises(ImportError, match=r"no module no_such_scorer: pip install 'fulgurite\[vision\]'"):
        import_extra("no_such_scorer.cider")


def test_a_library_that_is_there_is_imported() -> None:
    assert import_extra("json.decoder").JSONDecoder
